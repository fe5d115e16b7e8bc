"""Finds the files of a path: a file, a folder or a glob, on a local disk or in a bucket.

No file is left out silently: a file that is not read is counted with its reason, or refused.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nightrank.errors import NightrankError, is_utf8, printable
from nightrank.inputs.left_out import LeftOut, Unreadable, is_sidecar
from nightrank.inputs.listing import MAGIC, suffixes
from nightrank.inputs.tree import BucketTree, Entry, LocalTree, Tree
from nightrank.storage.filesystem import glob_pattern, is_remote

# s3fs cuts keys at this mark, even in buckets without versions.
VERSION_MARK = "?versionId="
HIDDEN = ("_", ".")


@dataclass(frozen=True)
class FoundFiles:
    """The files of a path.

    Attributes:
        files: by url, as the user would write it, sorted.
        left_out: the files that are not read.
    """

    files: dict[str, Entry]
    left_out: LeftOut = field(default_factory=LeftOut)


def find_files(
    filesystem: Any, place: str, path: str, format: str, ignore: Iterable[str] = ()
) -> FoundFiles:
    """Finds the files of a path.

    Links are followed. A file with several names is read once, under the name that is no link, or
    else the first. Names that start with `_` or `.` are left out, unless the path names them.

    Args:
        filesystem: of fsspec.
        place: the path within it.
        path: as the user writes it.
        format: `auto`, or the only format that is read in a folder; all matches of a glob are read
            as this format.
        ignore: patterns of files to leave out of a folder or a glob: `*.bz2`, `old/*`. They match
            from any folder on.

    Raises:
        NightrankError: E_SCHEMA for a file of unknown format, or whose name is not UTF-8; E_EMPTY
            for a link to a missing file.
        OSError: the store's own.
    """
    kept = path.removeprefix("file://").rstrip("/") or "/"
    remote = is_remote(kept)
    parts = (kept.partition("://")[2] if remote else kept).split("/")
    magic = next((i for i, part in enumerate(parts) if MAGIC.search(part)), None)
    if remote and magic == 0:
        what = "expected the name of a bucket, found a pattern"
        raise NightrankError("E_EMPTY", what, path, "name one bucket")
    if magic is None or filesystem.exists(place):
        info = filesystem.info(place)
        if info["type"] != "directory":
            _refuse_unreadable(kept)
            etag = str(info.get("ETag", "")).strip('"')
            return FoundFiles({kept: Entry("", place, "file", int(info["size"]), etag)})
        tree = _tree(filesystem, place, remote)
        before = kept if kept.endswith("/") else f"{kept}/"
        return _classified(_folder(tree), before, format, ignore, glob=False)
    before = kept[: len(kept) - len("/".join(parts[magic:]))]
    root, pattern = "/".join(parts[:magic]), parts[magic:]
    if not remote:
        root = os.path.abspath(before or ".")
        pattern = [part for part in pattern if part not in ("", ".")]
    tree = _tree(filesystem, root, remote)
    return _classified(_matches(tree, tree.root(), pattern), before, format, ignore, glob=True)


def _tree(filesystem: Any, place: str, remote: bool) -> Tree:
    return BucketTree(filesystem, place) if remote else LocalTree(place)


def _folder(tree: Tree) -> Iterator[tuple[Entry, str]]:
    """All entries of a folder, each with the hidden part of its name."""
    for entry in tree.below(tree.root()):
        yield entry, _hidden(entry.name.split("/"))


def _matches(tree: Tree, folder: Entry, pattern: list[str]) -> Iterator[tuple[Entry, str]]:
    """Entries below a folder that match a pattern, each with the hidden part of its name."""
    if pattern[0] == "**":
        matches = re.compile(glob_pattern("/".join(pattern))).match
        start = len(folder.name) + 1 if folder.name else 0
        for entry in tree.below(folder):
            if matches(entry.name[start:]):
                hidden = _hidden(entry.name[start:].split("/"))
                yield entry, hidden and entry.name[:start] + hidden
        return
    matches = re.compile(glob_pattern(pattern[0])).match
    for entry in tree.inside(folder):
        name = entry.name.rpartition("/")[2]
        if not matches(name):
            continue
        folder_like = entry.kind in ("folder", "cycle")
        hidden = entry.name if name[:1] in HIDDEN and pattern[0][:1] != name[:1] else ""
        if len(pattern) == 1 or (hidden and folder_like):
            yield entry, hidden
        elif folder_like:
            yield from _matches(tree, entry, pattern[1:])


def _hidden(parts: list[str]) -> str:
    """The path up to its first hidden part; empty where no part is hidden."""
    at = next((i for i, part in enumerate(parts) if part[:1] in HIDDEN), None)
    return "" if at is None else "/".join(parts[: at + 1])


def _classified(
    entries: Iterable[tuple[Entry, str]],
    before: str,
    format: str,
    ignore: Iterable[str],
    glob: bool,
) -> FoundFiles:
    """The files to read and the files left out; refuses all others.

    Args:
        entries: entries, each with the hidden part of its name.
        before: the user's path in front of their names.
        format: as configured.
        ignore: patterns.
        glob: whether the entries matched a glob.
    """
    taken: dict[str, Entry] = {}
    left_out, unreadable, hidden_parts = LeftOut(), Unreadable(), set()
    unknown: list[tuple[str, Entry]] = []
    patterns = [each for pattern in ignore for each in (pattern, f"*/{pattern}")]
    for entry, hidden in sorted(entries, key=lambda pair: pair[0].name):
        url = before + entry.name
        kind = suffixes(entry.name)[0]
        if hidden:
            if hidden not in hidden_parts:
                left_out.add("hidden", url)
            hidden_parts.add(hidden)
        elif any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns):
            left_out.add("ignored", url)
        elif entry.kind == "link":
            unreadable.broken.append(url)
        elif entry.kind in ("cycle", "folder"):
            left_out.add(entry.kind, url)
        elif entry.kind == "other":
            if kind or glob and format != "auto":
                unreadable.no_file.append(url)
            else:
                left_out.add("other", url)
        elif (glob and format != "auto") or (kind and format in ("auto", kind)):
            taken[url] = entry
        elif kind:
            left_out.add("other_format", url)
        elif is_sidecar(entry.name):
            left_out.add("sidecar", url)
        elif not entry.size:
            left_out.add("empty", url)
        else:
            unknown.append((url, entry))
    files = _without_repeats(taken, left_out)
    places = {entry.place for entry in files.values() if entry.place}
    for url, entry in unknown:
        if entry.place in places:
            left_out.add("repeated", url)
        else:
            unreadable.unknown.append(url)
    unreadable.refuse()
    for url in files:
        _refuse_unreadable(url)
    return FoundFiles(files, left_out)


def _refuse_unreadable(url: str) -> None:
    """Refuses a name that plans and rejects cannot hold, or that s3fs would cut.

    Raises:
        NightrankError: E_SCHEMA.
    """
    what = ""
    if not is_utf8(url):
        what = "the file's name is not valid UTF-8"
        do = "rename it, e.g. by `convmv -f latin1 -t utf-8 -r --notest FOLDER`"
    elif is_remote(url) and (url.endswith("/") or VERSION_MARK in url):
        what = f"a key that ends in a slash or contains {VERSION_MARK!r} cannot be read"
        do = "copy it to another key"
    if what:
        do += ", or leave it out by a pattern of `ignore`"
        raise NightrankError("E_SCHEMA", what, printable(url), do)


def _without_repeats(taken: dict[str, Entry], left_out: LeftOut) -> dict[str, Entry]:
    """Each file under one name: the first that is no link, or else the first."""
    files = {url: entry for url, entry in taken.items() if not entry.linked}
    places = {entry.place for entry in files.values()}
    for url, entry in taken.items():
        if entry.linked and entry.place in places:
            left_out.add("repeated", url)
        elif entry.linked:
            places.add(entry.place)
            files[url] = entry
    return dict(sorted(files.items()))
