"""The node's cache: checked at every use, whole or not there, private, and not growing for ever."""

from __future__ import annotations

import contextlib
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightrank.errors import NightrankError
from nightrank.storage.node_cache import UNUSED_SECONDS, Altered, NodeCache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeCache:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return NodeCache()


def asked(cache: NodeCache, data: bytes, fetched: list[bytes]) -> Path:
    def fetch() -> Iterator[bytes]:
        fetched.append(data)
        yield data[: len(data) // 2]
        yield data[len(data) // 2 :]

    return cache.file(hashlib.sha256(data).hexdigest(), len(data), fetch)


def test_a_file_is_fetched_once_and_again_where_it_is_not_what_it_was(cache: NodeCache) -> None:
    fetched: list[bytes] = []
    path = asked(cache, b"some bytes", fetched)
    assert asked(cache, b"some bytes", fetched) == path and len(fetched) == 1
    for damaged in (b"some bytez", b"some", b""):
        path.write_bytes(damaged)
        assert asked(cache, b"some bytes", fetched).read_bytes() == b"some bytes"
    assert len(fetched) == 4


@pytest.mark.parametrize("sent", [b"other bytes", b"some byt", b""])
def test_what_was_not_asked_for_is_never_kept(cache: NodeCache, sent: bytes) -> None:
    digest = hashlib.sha256(b"some bytes").hexdigest()
    with pytest.raises(Altered):
        cache.file(digest, 10, lambda: [sent])
    assert not [p for p in cache.folder.iterdir() if not p.name.endswith(".lock")]


def test_what_nobody_asked_for_in_a_week_goes_when_something_new_comes(cache: NodeCache) -> None:
    fetched: list[bytes] = []
    idle, used = (asked(cache, data, fetched) for data in (b"idle", b"used"))
    then = time.time() - UNUSED_SECONDS - 60
    for path in (idle, used):
        os.utime(path, (then, then))
    asked(cache, b"used", fetched)
    asked(cache, b"new", fetched)
    assert not idle.exists() and used.exists() and len(fetched) == 3


def test_a_view_shows_files_under_their_names_and_is_mended(cache: NodeCache) -> None:
    path = asked(cache, b"weights", [])
    links = {"model.bin": str(path), "1_Pooling/config.json": str(path)}
    view = cache.view(links)
    (view / "model.bin").unlink()
    (view / "model.bin").symlink_to("/etc/hostname")
    assert cache.view(links) == view
    assert {(view / name).read_bytes() for name in links} == {b"weights"}


@pytest.mark.parametrize("bad", ["open", "link"])
def test_a_folder_that_is_not_ones_own_is_refused(
    cache: NodeCache, tmp_path: Path, bad: str
) -> None:
    if bad == "open":
        cache.folder.mkdir()
        cache.folder.chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        cache.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NightrankError) as caught:
        asked(cache, b"some bytes", [])
    assert caught.value.code == "E_STORE_UNFIT"


def test_a_full_disk_is_told_and_leaves_nothing(cache: NodeCache) -> None:
    asked(cache, b"small", [])
    before = sorted(cache.folder.glob("[0-9a-f]*"))
    with limited(1 << 16), pytest.raises(NightrankError) as caught:
        asked(cache, bytes(1 << 20), [])
    assert caught.value.code == "E_DISK" and "TMPDIR" in caught.value.do
    left = [p for p in sorted(cache.folder.glob("[0-9a-f]*")) if not p.name.endswith(".lock")]
    assert left == [p for p in before if not p.name.endswith(".lock")]
    assert not list(cache.folder.glob("making-*"))


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """Within it no file may grow above so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
