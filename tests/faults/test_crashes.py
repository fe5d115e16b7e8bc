"""Killed at any named point, as often as it likes: the same command ends in the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.torture.crash_points import POINTS
from benchmarks.torture.drivers import Drivers
from nightrank.cli.verify import verify
from nightrank.errors import NightrankError
from nightrank.generations.results import open_lake
from nightrank.generations.retention import collect
from nightrank.storage.log import Log
from nightrank.storage.store import Store
from tests.support.collection import Collection
from tests.support.lake import digests
from tests.support.protocol import publish, read
from tests.support.world import World

pytestmark = pytest.mark.timeout(900)
LAYOUT = {"document_shard_rows": 20, "query_shard_rows": 4}
# Evaluation writes artifacts of kinds that other stages write too, and takes a third of a run.
SECTIONS: dict[str, Any] = {"layout": LAYOUT, "evaluate": {"qrels": None}}
SEQUENCES, ROUNDS = 40, 20
PUBLISH = "tests.support.protocol:publish"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """As many shards as a larger one, ranked in a sixth of a second of a core."""
    return Collection(tmp_path_factory.mktemp("tiny"), documents=60, queries=8)


def records(root: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in root.rglob("_done/*.json")}


def points(drivers: Drivers, config: str, root: Path) -> list[str]:
    """Every crash point of a run that nobody disturbs."""
    path = root.with_suffix(".points")
    code, told = drivers.run("run", config, list_to={"root": str(root), "path": str(path)})
    assert code == 0, told
    return [line.split("\t")[0] for line in path.read_text().splitlines()]


def at(root: Path | str, name: str, number: int) -> dict[str, Any]:
    return {"root": str(root), "name": name, "number": number}


def test_a_run_killed_at_every_named_point_recovers_to_the_same_bytes(
    tiny: Collection, drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    """Every name once, four of all points by chance, a name's occurrence by chance as well."""
    rng = random.Random(1)
    config = write_config(tiny.config(tmp_path / "whole", **SECTIONS))
    met = points(drivers, config, tmp_path / "whole")
    assert list(dict.fromkeys(met)) == list(POINTS), "crash_points.POINTS is not what happens"
    whole, counts = digests(tmp_path / "whole"), Counter(met)
    wanted = [(name, rng.randint(1, counts[name])) for name in POINTS]
    wanted += [("", number) for number in rng.sample(range(1, len(met)), 4)]
    for number, (name, occurrence) in enumerate(wanted):
        root = tmp_path / f"lake{number}"
        again = write_config(tiny.config(root, **SECTIONS), f"{number}.yaml")
        code, told = drivers.run("run", again, end_at=at(root, name, occurrence))
        assert code == -signal.SIGKILL, f"{name} {occurrence}: {code} {told}"
        before, logs = records(root), list(root.glob("tiny/results/_log/*.json"))
        code, told = drivers.run("run", again)
        assert code == 0, f"{name} {occurrence}: {told}"
        assert digests(root) == whole, f"{name} {occurrence}"
        assert before.items() <= records(root).items(), "a committed unit was done again"
        published = list(root.glob("tiny/results/_log/*.json"))
        assert len(published) == 1 and (not logs or logs == published)
        shutil.rmtree(root)


def test_a_night_killed_anywhere_ends_in_the_same_bytes(
    drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    """The third night, with a merge of segments in it; its readers see the second or the third."""
    world, rng = World(tmp_path, 41, documents=200, queries=16), random.Random(2)
    layout, lake = {"document_shard_rows": 60, "query_shard_rows": 8}, tmp_path / "lake"
    plain = world.config(lake, layout=layout, nightly={"max_segments": 2})
    config = write_config(plain, "lake.yaml")
    for number in range(3):
        if number:
            world.documents[f"new-{number}"] = "river bank loan"
            world.documents.pop(sorted(world.documents)[number])
        world.write()
        if number < 2:
            assert drivers.run("run", config)[0] == 0
    second, whole = digests(lake), tmp_path / "whole"
    shutil.copytree(lake, whole)
    met = points(drivers, write_config({**plain, "root": str(whole)}, "w.yaml"), whole)
    assert Log(open_lake(str(whole), "tiny"), "index").published()[-1].body["compacted"]
    for number in sorted(rng.sample(range(1, len(met) + 1), 5)):
        root = tmp_path / f"lake{number}"
        shutil.copytree(lake, root)
        again = write_config({**plain, "root": str(root)}, f"{number}.yaml")
        code, _ = drivers.run("run", again, end_at=at(root, "", number))
        assert code == -signal.SIGKILL
        assert digests(root) in (second, digests(whole)), f"readers after {number}"
        code, told = drivers.run("run", again)
        assert code == 0, told
        assert digests(root) == digests(whole), f"point {number}: {met[number - 1]}"
        verify(again)


def test_random_sequences_of_kills_end_in_one_publication(drivers: Drivers, tmp_path: Path) -> None:
    """Up to six kills before a run gets through, over an older generation that stays readable."""
    rng, kills = random.Random(3), 0
    for number in range(SEQUENCES):
        root = str(tmp_path / str(number))
        store = Store(root)
        old = publish(root, "old")
        for _ in range(rng.randint(1, 6)):
            code, told = drivers.run(PUBLISH, root, "new", end_at=at(root, "", rng.randint(1, 60)))
            assert code in (0, -signal.SIGKILL), told
            kills += code != 0
            assert read(store) in (("old", old.generation), ("new", old.generation + 1))
        code, told = drivers.run(PUBLISH, root, "new")
        assert code == 0, told
        assert read(store) == ("new", old.generation + 1)
        assert Log(store, "results").generations() == [1, 2]
        assert read(store, old) == ("old", 1)
    assert kills > SEQUENCES


@pytest.mark.parametrize(
    ("place", "rounds"), [("local", ROUNDS), pytest.param("s3", 4, marks=pytest.mark.s3)]
)
def test_of_five_rival_publishers_the_latest_planned_stays_and_a_twin_counts_once(
    place: str, rounds: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Four watermarks and a twin of the highest, all at once."""
    base = str(tmp_path) if place == "local" else request.getfixturevalue("s3_url")
    for number in range(rounds):
        log = Log(Store(f"{base}/{uuid.uuid4().hex}"), "results")
        for earlier in range(3):
            log.append({"plan": f"earlier {earlier}"}, watermark=0)

        def rival(watermark: int, log: Log = log) -> str:
            try:
                log.append({"plan": f"planned at {watermark}"}, watermark, same=("plan",))
            except NightrankError as error:
                return error.code
            return "published"

        writers = [0, 1, 2, 3, 3]
        random.Random(number).shuffle(writers)
        with ThreadPoolExecutor(5) as pool:
            ends = list(pool.map(rival, writers))
        entries = log.published()
        numbers, marks = [e.generation for e in entries], [e.body["watermark"] for e in entries]
        plans = [entry.body["plan"] for entry in entries]
        assert numbers == list(range(1, len(entries) + 1))
        assert marks == sorted(marks)
        assert plans[-1] == "planned at 3" and plans.count("planned at 3") == 1
        for watermark, end in zip(writers, ends, strict=True):
            stands = f"planned at {watermark}" in plans
            assert end == ("published" if stands else "E_STALE"), (watermark, end, plans)


def test_a_publisher_that_slept_through_gc_is_refused_and_runs_again(
    tiny: Collection, drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    """Stopped just before its entry, for longer than anything unfinished is kept."""
    root = tmp_path / "lake"
    assert drivers.run("run", write_config(tiny.config(root, layout=LAYOUT)))[0] == 0
    before = digests(root)
    config = write_config(tiny.config(root, rerank={"depth": 7}, layout=LAYOUT), "b.yaml")
    process = drivers.start(
        "run", config, end_at={**at(root, "link results entry", 1), "how": signal.SIGSTOP}
    )
    _wait_until_stopped(process)
    _age(root, days=30)
    store = open_lake(str(root), "tiny")
    given_up = {one.path for one in collect(store, retain=1, min_age_days=7)}
    assert any("/rank-" in path for path in given_up)
    os.kill(process, signal.SIGCONT)
    code, told = drivers.wait()
    assert code == 5 and "error[E_CONDEMNED]" in told, told
    assert digests(root) == before
    code, told = drivers.run("run", config)
    assert code == 0, told
    assert digests(root) != before
    verify(config)


# Before and after each number is taken, then within what is deleted.
GC_POINTS = (
    ("link index entry", 1),
    ("link results entry", 1),
    ("unlink results entry", 1),
    ("unlink manifest", 3),
    ("unlink record", 4),
    ("unlink data", 7),
)


def test_gc_killed_anywhere_leaves_a_lake_that_everything_goes_on_with(
    tiny: Collection, drivers: Drivers, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    """What an unfinished run had, and what it would share, is half deleted: it makes that anew."""

    def config(root: Path, depth: int) -> str:
        plain = tiny.config(root, rerank={"depth": depth}, layout=LAYOUT)
        return write_config(plain, f"{root.name}-{depth}.yaml")

    lake = tmp_path / "lake"
    for depth in (20, 7):
        assert drivers.run("run", config(lake, depth))[0] == 0
    assert drivers.run("run", config(lake, 9), "--to", "rerank")[0] == 0
    _age(lake, days=30)
    gc = ("--delete", "--retain", "1", "--min-age-days", "7")
    for number, (name, occurrence) in enumerate(GC_POINTS):
        root = tmp_path / f"lake{number}"
        shutil.copytree(lake, root)
        code, _ = drivers.run("gc", config(root, 7), *gc, end_at=at(root, name, occurrence))
        assert code == -signal.SIGKILL, f"{name} {occurrence}"
        for again in (("verify", 7), ("run", 9), ("verify", 9), ("run", 20), ("verify", 20)):
            code, told = drivers.run(again[0], config(root, again[1]))
            assert code == 0, f"{again} after {name} {occurrence}: {told}"
        assert drivers.run("gc", config(root, 20), *gc)[0] == 0
        assert drivers.run("verify", config(root, 20))[0] == 0
        shutil.rmtree(root)


def _wait_until_stopped(process: int) -> None:
    deadline = time.monotonic() + 120
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "the driver never came to its entry"
        time.sleep(0.005)


def _age(root: Path, days: float) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            os.utime(path, (path.stat().st_mtime - days * 86_400,) * 2)
