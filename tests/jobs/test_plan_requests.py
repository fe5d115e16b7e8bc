"""Requests to S3 that `nightrank plan` predicts beside those that a run then sends."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest

from nightrank.cli.plan import plan
from tests.support.collection import Collection
from tests.support.lake import run
from tests.support.proxy import Faults, Request, proxy

pytestmark = pytest.mark.s3
# What S3 prices as writing: listing is among it.
WRITES = ("PUT", "POST")


@dataclass
class Counted(Faults):
    """Lets everything through, and counts it as S3 prices it."""

    kinds: Counter[str] = field(default_factory=Counter)

    def choose(self, request: Request) -> str:
        """See `Faults.choose`."""
        lists = request.method == "GET" and "list-type=" in request.target
        if request.method != "DELETE":
            self.kinds["put" if lists or request.method in WRITES else "get"] += 1
        return super().choose(request)


@pytest.mark.parametrize("layout", [{}, {"document_shard_rows": 100, "query_shard_rows": 12}])
def test_requests_are_those_that_a_run_sends(
    layout: dict[str, int],
    tmp_path: Path,
    s3_url: str,
    write_config: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = Collection(tmp_path / "input", documents=1500, queries=80)
    root = f"{s3_url}/requests-{len(layout)}"
    config = made.config(root, layout=layout, evaluate={"qrels": None})
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as counter:
        config["storage_options"] = {"endpoint_url": counter.url}
        path = write_config(config)
        plan(path, json=True)
        said = orjson.loads(capsys.readouterr().out)["requests"]
        counter.faults = counted = Counted()
        run(path)
    print(said, counted.kinds)
    for kind in ("put", "get"):
        assert said[kind] == pytest.approx(counted.kinds[kind], rel=0.15), kind
