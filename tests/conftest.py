"""Shared fixtures: a made-up collection, configs on toy models, one Ray cluster, one S3 API."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.collection import Collection
from tests.support.network import moto_server
from tests.support.tiny_models import tiny_bert, tiny_tokenizer

if TYPE_CHECKING:
    from tests.support.cluster import TokenCluster

# Ray turns authentication on where it finds a token file: tests say explicitly what they want.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Eight Python processes a cluster, most of them never used; pools start their own.
os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
# A lake is small files, each of them synced: on a disk five tests of whole runs took 17 to 20
# core-seconds, in memory 13 to 14.
MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 6 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)
# What runs tell of themselves on this machine is not left in the developer's home.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="nightrank-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the groups in the same hook.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Distributes tests over processes: those that share a cluster to one, others by their file.

    The clusters' tests come first, then files that start clusters of their own; files that need
    the processor alone fill the time that these wait.
    """
    clusters = ["token_cluster", "ray_cluster"]

    def group(item: pytest.Item) -> str:
        fixtures = getattr(item, "fixturenames", ())
        return next((name for name in clusters if name in fixtures), item.location[0])

    on_ray = {group(item) for item in items if item.get_closest_marker("ray")}

    def place(item: pytest.Item) -> int:
        name = group(item)
        return clusters.index(name) if name in clusters else len(clusters) + (name not in on_ray)

    items.sort(key=place)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("collection"), documents=1200, queries=60)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[[dict[str, Any], str], str]:
    def write(plain: dict[str, Any], name: str = "config.yaml") -> str:
        path = tmp_path / name
        path.write_text(json.dumps(plain))  # JSON is YAML.
        return str(path)

    return write


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local cluster for the whole session; 8 logical CPUs, so that two pools fit."""
    import ray

    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """A bucket on moto's server; credentials stand in the environment."""
    settings = {
        "AWS_ENDPOINT_URL": "",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    before = {name: os.environ.get(name) for name in settings}
    try:
        with moto_server() as endpoint:
            os.environ.update({**settings, "AWS_ENDPOINT_URL": endpoint})
            import boto3

            boto3.client("s3").create_bucket(Bucket="lake")
            yield "s3://lake"
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def token_cluster() -> Iterator[TokenCluster]:
    """One node for the whole session, in processes of its own, with token authentication."""
    from tests.support.cluster import TokenCluster

    cluster = TokenCluster(cpus=8)
    yield cluster
    cluster.stop()


@pytest.fixture
def tiny_cross_encoder(tmp_path: Path) -> Path:
    """A cross-encoder of two layers with random weights."""
    folder = tmp_path / "tiny-cross-encoder"
    folder.mkdir()
    tiny_tokenizer(folder)
    tiny_bert(folder)
    return folder


@pytest.fixture
def tiny_bi_encoder(tmp_path: Path) -> Path:
    """A bi-encoder of two layers with random weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder, folder = tmp_path / "encoder", tmp_path / "tiny-bi-encoder"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    tiny_bert(encoder)
    transformer = Transformer(str(encoder), max_seq_length=32)
    SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode="mean")]).save(str(folder))
    return folder


@pytest.fixture
def edit_config() -> Callable[..., None]:
    """Changes fields of a model's config.json."""

    def edit(folder: Path, **fields: Any) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return edit
