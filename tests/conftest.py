"""Shared fixtures: a made-up collection, configs on toy models, one Ray cluster, one S3 API."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.cluster import StandingCluster

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

S3_SERVER = Path(__file__).parent / "support" / "s3_server.py"
COLLECTIONS = Path(__file__).resolve().parents[2] / "shared" / "data"
VOCABULARY = """
river bank loan interest court appeal heart valve surgery trial engine wing lift drag protein cell
gene therapy bond yield market crash storm flood solar panel battery charge index shard query
document rank score model token vector cluster worker driver record manifest log
"""
WORDS = VOCABULARY.split()
# A process takes some two seconds of a core to start: no more of them than a test needs.
ON_RAY: dict[str, Any] = {
    "executor": "ray",
    "pools": {"general": {"workers": 1}, "model": {"workers": 2}},
}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Collection:
    """A made-up collection: documents of random words, queries cut from documents, qrels."""

    def __init__(self, folder: Path, documents: int, queries: int, seed: int = 7) -> None:
        rng = random.Random(seed)
        self.folder = folder
        self.documents = [
            {
                "_id": f"d{i:05d}",
                "title": " ".join(rng.choices(WORDS, k=2)),
                "text": " ".join(rng.choices(WORDS, k=rng.randint(5, 40))),
                "year": 1990 + i % 30,
            }
            for i in range(documents)
        ]
        sources = [rng.randrange(documents) for _ in range(queries)]
        self.queries = []
        for i, source in enumerate(sources):
            words = self.documents[source]["text"].split()
            text = " ".join(rng.sample(words, min(4, len(words))))
            vertical = "legal" if i % 2 else "medical"
            self.queries.append({"_id": f"q{i:04d}", "text": text, "vertical": vertical})
        self.qrels = [(f"q{i:04d}", f"d{s:05d}", 1) for i, s in enumerate(sources)]
        write_jsonl(folder / "corpus.jsonl", self.documents)
        write_jsonl(folder / "queries.jsonl", self.queries)
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, q)) for q in self.qrels)]
        (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")

    def config(self, root: str | Path, **sections: Any) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "name": "tiny",
            "root": str(root),
            "corpus": {"path": str(self.folder / "corpus.jsonl")},
            "queries": {"path": str(self.folder / "queries.jsonl")},
            "encoder": {"model": "toy:bag-of-words"},
            "index": {"factory": "Flat"},
            "retrieve": {"depth": 20},
            "rerank": {"model": "toy:overlap", "depth": 20},
            "results": {"keep": 5},
            "evaluate": {"qrels": str(self.folder / "qrels.tsv")},
            "cluster": {"executor": "serial"},
        }
        for name, section in sections.items():
            if isinstance(section, dict) and isinstance(plain.get(name), dict):
                plain[name] = {**plain[name], **section}
            else:
                plain[name] = section
        return plain


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks at the groups in the same hook.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, who shares what is dear to start shares one of them.

    The dear ones come first, one in each process, and files of others fill what time is left.
    """
    dear = ["standing_cluster", "ray_cluster"]

    def group(item: pytest.Item) -> str:
        """A cluster's name or the file's; in tests/faults files have clusters of their own."""
        shared = [name for name in dear if name in getattr(item, "fixturenames", ())]
        if not shared and item.get_closest_marker("ray") and "faults" not in item.path.parts:
            shared = ["ray_cluster"]  # By `getfixturevalue`.
        return shared[0] if shared else item.location[0]

    def place(item: pytest.Item) -> int:
        name, on_ray = group(item), item.get_closest_marker("ray") is not None
        return dear.index(name) if name in dear else len(dear) + (not on_ray)

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


def nightrank(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the program as its users do, in a process of its own."""
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "nightrank", *arguments],
        capture_output=True,
        text=True,
        timeout=220,
        env=environment,
        cwd=options.pop("cwd", Path(__file__).resolve().parents[1]),
        **options,
    )


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


def free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """A real S3 API over HTTP; its endpoint."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, str(S3_SERVER), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(endpoint, timeout=1).close()
                break
            time.sleep(0.05)
        yield endpoint
    finally:
        server.terminate()
        server.wait()


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
def standing_cluster() -> Iterator[StandingCluster]:
    """One node for the whole session, in processes of its own, with token authentication."""
    from tests.support.cluster import StandingCluster

    cluster = StandingCluster(cpus=8)
    yield cluster
    cluster.stop()
