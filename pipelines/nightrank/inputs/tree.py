"""Lists the folders of an input: of a local disk, following links, or the keys of a bucket.

fsspec's listing is not used: it calls a link neither file nor folder, skips a folder without read
permission, and drops empty parts of a key.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

# `link`: its target does not exist. `cycle`: a link to a folder above it. `other`: a pipe, a socket
# or a device.
Kind = Literal["file", "folder", "link", "cycle", "other"]


@dataclass(frozen=True)
class Entry:
    """One name in a folder.

    Attributes:
        name: relative to the folder that was listed, with `/` between its parts; a part of an S3
            key may be empty.
        full: the path in the filesystem.
        kind: of what a link leads to, where the name is one.
        size: bytes.
        etag: of an S3 object, without quotes.
        place: device and inode of what a local name leads to.
        linked: whether the name, or a folder in it, is a link.
        above: places of the local folders above it, to detect a cycle of links.
    """

    name: str
    full: str
    kind: Kind
    size: int = 0
    etag: str = ""
    place: tuple[int, int] | None = None
    linked: bool = False
    above: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)


class Tree(Protocol):
    """Folders and files below a root."""

    def root(self) -> Entry:
        """The folder that names are relative to."""
        ...

    def inside(self, folder: Entry) -> list[Entry]:
        """The entries directly in a folder, sorted by name."""
        ...

    def below(self, folder: Entry) -> Iterator[Entry]:
        """All entries in a folder and its subfolders, without the folders themselves."""
        ...


class LocalTree:
    """A folder of a local disk.

    Args:
        path: absolute.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def root(self) -> Entry:
        """See `Tree`; raises FileNotFoundError or NotADirectoryError."""
        real = Path(os.path.realpath(self._path))
        places = [_place(os.stat(folder)) for folder in (real, *real.parents)]
        return Entry("", self._path, "folder", place=places[0], above=frozenset(places))

    def inside(self, folder: Entry) -> list[Entry]:
        """See `Tree`; links are followed."""
        with os.scandir(folder.full) as found:
            return [_local(folder, one) for one in sorted(found, key=lambda one: one.name)]

    def below(self, folder: Entry) -> Iterator[Entry]:
        """See `Tree`; a link to a folder above it is an entry, and is not followed."""
        for entry in self.inside(folder):
            if entry.kind == "folder":
                yield from self.below(entry)
            else:
                yield entry


def _local(folder: Entry, one: os.DirEntry[str]) -> Entry:
    """A name of a local folder, and what it leads to."""
    name = f"{folder.name}/{one.name}" if folder.name else one.name
    link = one.is_symlink()
    try:
        found = os.stat(one.path)
    except OSError as error:
        if not link or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return Entry(name, one.path, "link", linked=True)
    place, linked = _place(found), link or folder.linked
    if stat.S_ISDIR(found.st_mode):
        kind: Kind = "cycle" if place in folder.above else "folder"
        above = folder.above | {place}
        return Entry(name, one.path, kind, place=place, linked=linked, above=above)
    kind = "file" if stat.S_ISREG(found.st_mode) else "other"
    return Entry(name, one.path, kind, found.st_size, place=place, linked=linked)


def _place(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


class BucketTree:
    """The keys of a bucket below a prefix.

    Args:
        filesystem: of s3fs.
        path: `bucket` or `bucket/prefix`, without a slash at its end.
    """

    def __init__(self, filesystem: Any, path: str) -> None:
        self._filesystem, self._path = filesystem, path

    def root(self) -> Entry:
        """See `Tree`."""
        return Entry("", self._path, "folder")

    def inside(self, folder: Entry) -> list[Entry]:
        """See `Tree`; one listing with a delimiter."""
        found = []
        for page in self._pages(folder, Delimiter="/"):
            found += self._files(page)
            for common in page.get("CommonPrefixes", []):
                found.append(self._entry(common["Prefix"][:-1], "folder"))
        return sorted(found, key=lambda entry: entry.name)

    def below(self, folder: Entry) -> Iterator[Entry]:
        """See `Tree`; one flat listing, a thousand keys a request."""
        for page in self._pages(folder):
            yield from self._files(page)

    def _pages(self, folder: Entry, **more: str) -> Iterator[dict[str, Any]]:
        bucket, slash, prefix = folder.full.partition("/")
        asked = {"Bucket": bucket, "Prefix": f"{prefix}/" if slash else "", **more}
        while True:
            page = self._filesystem.call_s3("list_objects_v2", **asked)
            yield page
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _files(self, page: dict[str, Any]) -> list[Entry]:
        return [
            self._entry(one["Key"], "file", int(one["Size"]), one["ETag"].strip('"'))
            for one in page.get("Contents", [])
            # Consoles mark a folder with an empty object whose key ends in a slash.
            if one["Size"] or not one["Key"].endswith("/")
        ]

    def _entry(self, key: str, kind: Kind, size: int = 0, etag: str = "") -> Entry:
        full = f"{self._path.partition('/')[0]}/{key}"
        return Entry(full[len(self._path) + 1 :], full, kind, size, etag)
