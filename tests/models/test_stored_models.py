"""Models travel by the lake: nodes need neither the folder that was named nor a hub."""

from __future__ import annotations

import http.server
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nightrank.cli.submit import portable, send_models
from nightrank.cli.verify import verify
from nightrank.config.file import load_config
from nightrank.errors import NightrankError
from nightrank.generations.planning import make_plan, store_models
from nightrank.generations.results import open_lake
from nightrank.generations.retention import collect, collectable
from nightrank.models import hardware
from nightrank.models import stored as stored_models
from nightrank.models.registry import load_cross_encoder, resolve_cross_encoder
from nightrank.storage.reader import Reader
from nightrank.storage.store import Store
from tests.support.collection import Collection
from tests.support.lake import run, table
from tests.support.program import nightrank

pytestmark = pytest.mark.models
Write = Callable[..., str]
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("few"), documents=40, queries=4)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """From here on this process is on another node: its cache is elsewhere."""

    def move(name: str) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        return tmp_path / name

    return move


def config(few: Collection, root: str | Path, model: str | Path, depth: int = 5, **more) -> dict:
    reranker = {"model": str(model), "depth": depth, **more}
    return few.config(root, rerank=reranker, evaluate={"qrels": None})


def cached(node: Path, size: int) -> Path:
    """The cached file of a size on a node; links do not count."""
    found = [p for p in node.glob("nightrank-cache-*/*") if p.is_file() and not p.is_symlink()]
    (path,) = [p for p in found if p.stat().st_size == size]
    return path


@pytest.mark.ray
def test_a_run_outlives_the_folder_that_it_named(
    few: Collection, tmp_path: Path, write_config: Write, tiny_cross_encoder: Path, node
) -> None:
    whole = write_config(config(few, tmp_path / "whole", tiny_cross_encoder), "whole.yaml")
    run(whole)
    begun = write_config(config(few, tmp_path / "lake", tiny_cross_encoder), "lake.yaml")
    done = nightrank("run", begun, "--to", "merge")
    assert done.returncode == 0 and "MB in the lake" in done.stderr
    shutil.rmtree(tiny_cross_encoder)
    # Another machine with the same lake, its workers on Ray: nothing of the first one's disk.
    elsewhere = {"TMPDIR": str(node("elsewhere")), "RAY_TMPDIR": "/tmp"}  # For short sockets.
    resumed = nightrank("run", begun, "--json", "--set", "cluster.executor=ray", env=elsewhere)
    assert resumed.returncode == 0, resumed.stderr
    assert table(tmp_path / "lake").equals(table(tmp_path / "whole"))
    plans = [next((tmp_path / n / "tiny" / "results").glob("*.0")).name for n in ("lake", "whole")]
    assert plans[0] == plans[1]
    deeper = {"depth": 9}
    again = write_config(config(few, tmp_path / "lake", tiny_cross_encoder, **deeper), "more.yaml")
    assert run(again)["pairs_scored"] > 0


def test_a_name_means_what_was_stored_last_and_a_folder_that_is_here_counts(
    tmp_path: Path, tiny_cross_encoder: Path, edit_config, node
) -> None:
    node("one")
    store, name = Store(str(tmp_path / "lake")), str(tiny_cross_encoder)
    stored_models.send(store, name, None, print)
    first = resolve_cross_encoder(name).digest
    edit_config(tiny_cross_encoder, hidden_dropout_prob=0.25)
    second = resolve_cross_encoder(name).digest
    for _ in range(2):
        stored_models.send(store, name, None, print)
    assert stored_models.find(store, name, None) is None
    shutil.rmtree(tiny_cross_encoder)
    found = stored_models.find(store, name, None)
    assert found and resolve_cross_encoder(name, located=found).digest == second != first
    assert len(store.folders("models")) == 3  # Both, and the names.
    with pytest.raises(NightrankError, match="no folder|unknown model"):
        resolve_cross_encoder(str(tmp_path / "another"))


def test_a_hub_model_needs_no_hub_once_it_is_stored(
    few: Collection, tmp_path: Path, write_config: Write, tiny_cross_encoder: Path, node
) -> None:
    home = tmp_path / "hub"
    snapshot = home / "hub" / "models--own--tiny" / "snapshots" / REVISION
    shutil.copytree(tiny_cross_encoder, snapshot)
    plain = config(few, tmp_path / "lake", "own/tiny", revision=REVISION)
    path = write_config(plain)
    first = nightrank("run", path, env={"HF_HOME": str(home)})
    assert first.returncode == 0, first.stderr
    shutil.rmtree(home)
    other = write_config({**plain, "results": {"keep": 3}}, "other.yaml")
    away = {"HF_HOME": str(tmp_path / "none"), "TMPDIR": str(node("away"))}
    second = nightrank("run", other, "--json", env=away)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["pairs_reused"] > 0  # The very same model.


@pytest.mark.s3
def test_nodes_fetch_check_and_mend_their_copies(
    few: Collection,
    s3_url: str,
    write_config: Write,
    tiny_bi_encoder: Path,
    tiny_cross_encoder: Path,
    node,
) -> None:
    root = f"{s3_url}/models"
    plain = config(few, root, tiny_cross_encoder)
    plain["encoder"] = {"model": str(tiny_bi_encoder)}
    path = write_config(plain)
    first, second = node("first"), node("second")
    node("first")
    run(path)
    expected, weights = table(root), tiny_cross_encoder / "model.safetensors"
    size = weights.stat().st_size
    shutil.rmtree(tiny_bi_encoder)
    shutil.rmtree(tiny_cross_encoder)
    copy = cached(first, size)
    good = copy.read_bytes()
    copy.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    for place, rows in ((first, 20), (second, 25)):
        node(place.name)
        # In other shards nothing of an earlier run is taken over but the models.
        other = {**plain, "layout": {"document_shard_rows": rows}}
        again = run(write_config(other, f"{place.name}.yaml"))
        assert again["documents_embedded"] == 40 and again["pairs_reused"] == 0
        assert table(root).equals(expected)
        assert cached(place, size).read_bytes() == good
    verify(path)


@pytest.mark.s3
def test_of_many_processes_of_a_node_one_fetches_and_all_read_the_same(
    s3_url: str, tmp_path: Path, tiny_cross_encoder: Path
) -> None:
    store = Store(f"{s3_url}/many")
    digest = resolve_cross_encoder(str(tiny_cross_encoder)).digest
    stored_models.send(store, str(tiny_cross_encoder), None, print)
    program = (
        "import sys\n"
        "from nightrank.storage.reader import Reader\n"
        "from nightrank.storage.store import Store\n"
        "from nightrank.models.folders.files import folder_digest\n"
        "read, pieces = Reader(Store(sys.argv[1])), []\n"
        "fetch = read._piece\n"
        "read._piece = lambda ref, at: pieces.append(at) or fetch(ref, at)\n"
        "folder = read.folder(sys.argv[2])\n"
        "print(folder_digest(folder), len(pieces))\n"
    )
    command = [sys.executable, "-c", program, f"{s3_url}/many", f"models/{digest}"]
    env = {"TMPDIR": str(tmp_path)}
    started = [start(command, env) for _ in range(4)]
    outputs = [process.communicate(timeout=120)[0].split() for process in started]
    assert {line[0] for line in outputs} == {digest}
    files = len(list(tiny_cross_encoder.iterdir()))
    assert sum(int(line[1]) for line in outputs) == files


def start(command: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    environment = {**os.environ, **env}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_collection_keeps_the_models_of_kept_plans_and_takes_the_others(
    few: Collection, tmp_path: Path, write_config: Write, tiny_cross_encoder: Path, edit_config
) -> None:
    path = write_config(config(few, tmp_path / "lake", tiny_cross_encoder))
    run(path)
    loaded = load_config(path)
    store = open_lake(loaded.root, loaded.name)
    used = resolve_cross_encoder(str(tiny_cross_encoder)).digest
    edit_config(tiny_cross_encoder, hidden_dropout_prob=0.25)
    planned = resolve_cross_encoder(str(tiny_cross_encoder)).digest
    unfinished = store_models(make_plan(loaded, store), store, print).folder
    edit_config(tiny_cross_encoder, hidden_dropout_prob=0.5)
    stored_models.send(store, str(tiny_cross_encoder), None, print)
    unused = resolve_cross_encoder(str(tiny_cross_encoder)).digest
    age(tmp_path / "lake", days=8, but=unfinished)
    gone = {one.path for one in collectable(store, 1, 7)}
    assert f"models/{unused}" in gone
    assert not {f"models/{used}", f"models/{planned}"} & gone
    collect(store, 1, 7)
    assert f"models/{unused}" not in [f"models/{n}" for n in store.folders("models")]
    verify(path)
    # What was collected is stored anew when it is asked for again.
    stored_models.send(store, str(tiny_cross_encoder), None, print)
    assert Reader(store).folder(f"models/{unused}").is_dir()


def age(root: Path, days: float, but: str) -> None:
    then = time.time() - days * 86_400
    for path in root.rglob("*"):
        if path.is_file() and but not in str(path):
            os.utime(path, (then, then))


def test_verify_finds_a_damaged_model(
    few: Collection, tmp_path: Path, write_config: Write, tiny_cross_encoder: Path
) -> None:
    path = write_config(config(few, tmp_path / "lake", tiny_cross_encoder))
    run(path)
    verify(path)
    weights = max((tmp_path / "lake").rglob("models/*/_data/*"), key=lambda p: p.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(NightrankError) as caught:
        verify(path)
    assert caught.value.code == "E_CORRUPT" and weights.name in str(caught.value)
    # A worker does not load it either.
    shutil.rmtree(tiny_cross_encoder)
    with pytest.raises(NightrankError) as caught:
        run(path, "rerank.depth=7")
    assert caught.value.code == "E_CORRUPT"


def test_a_worker_without_the_planned_precision_names_its_node_and_what_to_do(
    tmp_path: Path, tiny_cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = resolve_cross_encoder(str(tiny_cross_encoder), precision="exact")
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)  # As on a node without it.
    with pytest.raises(NightrankError) as caught:
        load_cross_encoder(replace(resolved, precision="bf16"), 1)
    assert caught.value.exit_code == 3
    assert platform.node() in caught.value.where and "precision: exact" in caught.value.do


def test_what_is_submitted_takes_its_models_along(
    few: Collection,
    tmp_path: Path,
    write_config: Write,
    tiny_cross_encoder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = config(few, "lake", tiny_cross_encoder.relative_to(tmp_path))
    loaded = load_config(write_config(plain))
    send_models(portable(loaded))
    shutil.rmtree(tiny_cross_encoder)
    store = open_lake(str(tmp_path / "lake"), loaded.name)
    assert stored_models.find(store, str(tiny_cross_encoder), None) is not None


class Hub(http.server.BaseHTTPRequestHandler):
    requested: list[str] = []  # noqa: RUF012

    def do_HEAD(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    do_GET = do_HEAD

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


WORKER = """
import sys
from contextlib import suppress
from huggingface_hub import snapshot_download
from nightrank.runtime.unit import UnitRunner
from nightrank.storage.store import StoreSpec
if sys.argv[1] == "worker":
    UnitRunner(StoreSpec(sys.argv[2], {}), 1, sys.argv[2])
with suppress(Exception):
    snapshot_download("own/tiny", revision=sys.argv[3])
"""


@pytest.mark.parametrize("where", ["planning", "worker"])
def test_no_worker_asks_a_hub(hub: str, tmp_path: Path, where: str) -> None:
    env = {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "NO_PROXY": "*"}
    process = start([sys.executable, "-c", WORKER, where, str(tmp_path), REVISION], env)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert bool(Hub.asked) == (where == "planning")
