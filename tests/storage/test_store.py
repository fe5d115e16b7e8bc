from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import textwrap
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nightrank.errors import NightrankError
from nightrank.storage import disk
from nightrank.storage.log import Log
from nightrank.storage.store import Store


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(str(tmp_path / "lake"))
    return Store(f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}")


def test_the_first_creator_wins_and_a_repeat_of_the_same_bytes_is_a_success(store: Store) -> None:
    assert store.put_if_absent("a/b.json", b"first")
    assert store.put_if_absent("a/b.json", b"first")
    assert not store.put_if_absent("a/b.json", b"second")
    assert store.read("a/b.json") == b"first"


def test_of_many_rivals_exactly_one_creates(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: store.put_if_absent("key", str(i).encode()), range(8)))
    assert sum(won) == 1
    assert store.read("key") == str(won.index(True)).encode()


def test_a_write_that_fails_leaves_nothing_behind(store: Store) -> None:
    def fill(file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise RuntimeError("worker died")

    with pytest.raises(RuntimeError):
        store.write("data/part", fill)
    assert store.files("data") == {}


def test_a_check_refuses_a_finished_file(store: Store) -> None:
    def check(path: str) -> None:
        assert Path(path).read_bytes() == b"content"
        raise ValueError("not what was meant")

    with pytest.raises(ValueError):
        store.write("data/part", lambda file: file.write(b"content"), check)
    assert store.files("data") == {}


def test_size_and_digest_are_those_of_the_bytes(store: Store) -> None:
    import hashlib

    content = os.urandom(100_000)
    size, sha256 = store.write("data/part", lambda file: file.write(content))
    assert (size, sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert store.read("data/part") == content
    assert store.read("data/part", 10, 20) == content[10:20]
    assert store.files("data") == {"part": len(content)}


def test_the_probe_accepts_a_store_with_conditional_writes(store: Store) -> None:
    store.probe()


def test_the_probe_refuses_a_store_that_ignores_the_condition(tmp_path: Path) -> None:
    class Forgetful(Store):
        """A store behind a proxy that drops If-None-Match."""

        def _create(self, key: str, data: bytes) -> bool:
            path = Path(self.path(key))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            return True

    with pytest.raises(NightrankError) as caught:
        Forgetful(str(tmp_path)).probe()
    assert caught.value.code == "E_STORE_UNFIT" and caught.value.exit_code == 3


def test_an_unwritable_root_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(NightrankError) as caught:
        Store(str(tmp_path / "file" / "lake")).probe()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EIO, "check the disk"), (errno.EROFS, "the mount"), (errno.EMFILE, "ulimit -n")],
)
def test_a_disk_that_fails_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def failing(*arguments: Any) -> int:
        raise OSError(number, os.strerror(number))

    store = Store(str(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(os, "open", failing)
        with pytest.raises(NightrankError, match=advice) as caught:
            store.put_if_absent("a/b", b"c")
    assert caught.value.exit_code == 8
    assert store.put_if_absent("a/b", b"c")


def test_what_names_a_new_folder_is_synced_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = disk._sync_folder
    monkeypatch.setattr(disk, "_sync_folder", lambda path: (synced.append(path), sync(path)))
    Store(str(tmp_path)).put_if_absent("a/b/c", b"d")
    assert synced == [str(tmp_path / "a"), str(tmp_path), str(tmp_path / "a/b")]


def test_a_full_disk_is_e_disk_and_leaves_no_file(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes writes fail with EFBIG at any byte offset, without root."""
    script = textwrap.dedent(f"""
        import resource, signal, sys
        from nightrank.errors import NightrankError
        from nightrank.storage.store import Store
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        store = Store({str(tmp_path)!r})
        try:
            store.write("data/part", lambda f: f.write(b"x" * 10000))
        except NightrankError as error:
            print(error.code, store.files("data"))
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split() == ["E_DISK", "{}"], done.stderr
    assert resource.RLIMIT_FSIZE is not None and signal.SIGXFSZ


def test_generations_are_contiguous_when_publishers_race(store: Store) -> None:
    def publish(writer: int) -> int:
        return Log(store, "results").append({"writer": writer}, watermark=0).generation

    with ThreadPoolExecutor(6) as pool:
        numbers = sorted(pool.map(publish, range(6)))
    assert numbers == Log(store, "results").generations() == [1, 2, 3, 4, 5, 6]


def test_a_publisher_that_planned_before_the_current_entry_is_fenced(store: Store) -> None:
    log = Log(store, "results")
    log.append({"run": "old"}, watermark=0)
    log.append({"run": "planned later"}, watermark=1)
    with pytest.raises(NightrankError) as caught:
        log.append({"run": "paused since"}, watermark=0)
    assert caught.value.code == "E_STALE" and caught.value.exit_code == 5
    current = log.current()
    assert current is not None and current.body["run"] == "planned later"


@pytest.mark.parametrize(("format", "age"), [(99, "a newer version"), (1, "an older version")])
def test_an_entry_of_another_format_is_refused(store: Store, format: int, age: str) -> None:
    store.put_if_absent(f"results/_log/{1:020d}.json", b'{"format": %d}' % format)
    with pytest.raises(NightrankError, match=age):
        Log(store, "results").current()
