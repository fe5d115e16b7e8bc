"""Lists an input: folders of a local disk, following links, or the keys of a bucket.

fsspec's listing is not used: it reports links as neither file nor folder, skips folders without
read permission, and drops empty parts of a key.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

# `link`: its target does not exist. `cycle`: a link to a folder above it. `other`: a pipe, a socket
# or a device.
Kind = Literal["file", "folder", "link", "cycle", "other"]


@dataclass(frozen=True)
class Entry:
    """One name in a folder.

    Attributes:
        name: relative to the listed folder, with `/` between its parts; a part of an S3 key may be
            empty.
        full: the path in the filesystem.
        kind: of the name, or of a link's target.
        size: bytes.
        etag: of an S3 object, without quotes.
        place: device and inode of a local name, or of a link's target.
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
        """The listed folder; names are relative to it."""
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
        with os.scandir(folder.full) as entries:
            return [_local(folder, entry) for entry in sorted(entries, key=lambda e: e.name)]

    def below(self, folder: Entry) -> Iterator[Entry]:
        """See `Tree`; a link to a folder above it is an entry, and is not followed."""
        for entry in self.inside(folder):
            if entry.kind == "folder":
                yield from self.below(entry)
            else:
                yield entry


def _local(folder: Entry, child: os.DirEntry[str]) -> Entry:
    """The entry of a name in a local folder; a link is followed."""
    name = f"{folder.name}/{child.name}" if folder.name else child.name
    link = child.is_symlink()
    try:
        status = os.stat(child.path)
    except OSError as error:
        if not link or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return Entry(name, child.path, "link", linked=True)
    place, linked = _place(status), link or folder.linked
    if stat.S_ISDIR(status.st_mode):
        kind: Kind = "cycle" if place in folder.above else "folder"
        above = folder.above | {place}
        return Entry(name, child.path, kind, place=place, linked=linked, above=above)
    kind = "file" if stat.S_ISREG(status.st_mode) else "other"
    return Entry(name, child.path, kind, status.st_size, place=place, linked=linked)


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class ListedObject(TypedDict):
    """An object in a reply to ListObjectsV2."""

    Key: str
    Size: int
    ETag: str


class CommonPrefix(TypedDict):
    """A folder in a reply to ListObjectsV2."""

    Prefix: str


class ListedPage(TypedDict, total=False):
    """A reply to ListObjectsV2; the last page is not truncated."""

    Contents: list[ListedObject]
    CommonPrefixes: list[CommonPrefix]
    IsTruncated: bool
    NextContinuationToken: str


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
        entries = []
        for page in self._pages(folder, Delimiter="/"):
            entries += self._files(page)
            for common in page.get("CommonPrefixes", []):
                entries.append(self._entry(common["Prefix"][:-1], "folder"))
        return sorted(entries, key=lambda entry: entry.name)

    def below(self, folder: Entry) -> Iterator[Entry]:
        """See `Tree`; one flat listing, a thousand keys a request."""
        for page in self._pages(folder):
            yield from self._files(page)

    def _pages(self, folder: Entry, **parameters: str) -> Iterator[ListedPage]:
        bucket, slash, prefix = folder.full.partition("/")
        request = {"Bucket": bucket, "Prefix": f"{prefix}/" if slash else "", **parameters}
        while True:
            page = self._filesystem.call_s3("list_objects_v2", **request)
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]

    def _files(self, page: ListedPage) -> list[Entry]:
        return [
            self._entry(listed["Key"], "file", int(listed["Size"]), listed["ETag"].strip('"'))
            for listed in page.get("Contents", [])
            # Consoles create an empty object whose key ends in a slash for a folder.
            if listed["Size"] or not listed["Key"].endswith("/")
        ]

    def _entry(self, key: str, kind: Kind, size: int = 0, etag: str = "") -> Entry:
        full = f"{self._path.partition('/')[0]}/{key}"
        return Entry(full[len(self._path) + 1 :], full, kind, size, etag)
