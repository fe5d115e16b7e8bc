"""Root, inputs and results on a real S3 API over HTTP: the same rows as on a local disk."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.verify import verify
from tests.support.cluster import ON_RAY
from tests.support.collection import Collection
from tests.support.lake import run, table
from tests.support.program import nightrank

pytestmark = pytest.mark.s3


@pytest.fixture
def local(collection: Collection, tmp_path: Path, write_config: Callable[..., str]) -> pa.Table:
    run(write_config(collection.config(tmp_path / "local"), "local.yaml"))
    return table(tmp_path / "local")


def test_a_lake_on_s3_holds_the_rows_of_a_local_one(
    collection: Collection, local: pa.Table, s3_url: str, write_config: Callable[..., str]
) -> None:
    root = f"{s3_url}/serial"
    config = write_config(collection.config(root))
    summary = run(config)
    assert summary["generation"] == 1
    assert all(path.startswith(f"{root}/tiny/results/") for path in summary["files"])
    assert table(root).equals(local)
    verify(config)
    assert run(config)["already_published"]


@pytest.mark.ray
def test_ray_workers_reach_s3_and_inputs_may_lie_there(
    collection: Collection, local: pa.Table, s3_url: str, write_config: Callable[..., str]
) -> None:
    import boto3

    client = boto3.client("s3")
    half = len(collection.documents) // 2
    lines = "".join(json.dumps(d) + "\n" for d in collection.documents[:half])
    client.put_object(Bucket="lake", Key="in/a.jsonl.gz", Body=gzip.compress(lines.encode()))
    rest: dict[str, list[Any]] = {
        name: [d[name] for d in collection.documents[half:]] for name in ("_id", "title", "text")
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(rest), sink)
    client.put_object(Bucket="lake", Key="in/b.parquet", Body=sink.getvalue())
    config = collection.config(f"{s3_url}/ray", corpus={"path": f"{s3_url}/in"}, cluster=ON_RAY)
    path = write_config(config)
    done = nightrank("run", path, "--json")
    assert done.returncode == 0, done.stderr
    assert table(f"{s3_url}/ray").equals(local)
    files = nightrank("results", path, "--files")
    assert files.stdout.strip().startswith("s3://lake/ray/tiny/")


def test_a_missing_bucket_is_told_in_one_line(
    collection: Collection, s3_url: str, write_config: Callable[..., str]
) -> None:
    done = nightrank("run", write_config(collection.config("s3://nosuchbucket/x")))
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1 and "nosuchbucket" in done.stderr
