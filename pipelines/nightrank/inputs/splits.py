"""The user's files, frozen at planning: what was listed, how large, under which identity.

A plan holds `InputFile`s and `Split`s; files are never listed again, and a file that changed since
is refused. Identities are the sha256 of a local file's bytes, and the ETag of an S3 object, which
costs no read.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.errors import NightrankError
from nightrank.inputs.files import find_files
from nightrank.inputs.left_out import LeftOut
from nightrank.inputs.listing import KNOWN, MAGIC, kind_of, store_errors
from nightrank.inputs.parquet_footer import READ_SETTINGS, PlainFooter
from nightrank.storage.filesystem import connect, is_remote

# 128 MiB of JSONL took 1.1 s to read, check and hash on one core: small units, little lost by one.
TARGET_BYTES = 128 << 20


@dataclass(frozen=True)
class InputFile:
    """One input file as it was at planning.

    Attributes:
        url: as the user would write it: a local path relative as given, or s3://bucket/key.
        size: bytes on disk.
        identity: `sha256:<hex>` of a local file, `etag:<etag>` of an S3 object.
        format: `parquet`, `jsonl`, `csv` or `tsv`.
        compression: empty, `gzip` or `zstd`.
        modified: nanoseconds since the epoch at which a local file was written; no part of what it
            is, only of how a change is noticed.
    """

    url: str
    size: int
    identity: str
    format: str
    compression: str = ""
    modified: int = field(default=0, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a plan."""
        return {name: value for name, value in asdict(self).items() if name != "modified"}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> InputFile:
        """The inverse of `to_dict`."""
        return cls(**plain)


@dataclass(frozen=True)
class Split:
    """A part of a file that one task reads.

    Attributes:
        file: the file it is part of.
        kind: `whole`; `bytes`: the lines that start in [start, stop); `row_groups`: Parquet row
            groups start to stop - 1.
        start: first byte or row group; 0 for a whole file.
        stop: end of the range, exclusive; the file's size for a whole file.
    """

    file: InputFile
    kind: Literal["whole", "bytes", "row_groups"]
    start: int
    stop: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a plan."""
        return {**asdict(self), "file": self.file.to_dict()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Split:
        """The inverse of `to_dict`."""
        return cls(**{**plain, "file": InputFile.from_dict(plain["file"])})


@dataclass(frozen=True)
class Inventory:
    """The files behind an input's path.

    Attributes:
        files: to be read, sorted by path.
        left_out: what is not read, counted by reason.
    """

    files: tuple[InputFile, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


def inventory(
    path: str,
    format: str = "auto",
    options: dict[str, Any] | None = None,
    ignore: Iterable[str] = (),
) -> Inventory:
    """Lists and identifies the files behind a path.

    Args:
        path: a file, a folder (read recursively, links followed; names that start with `_` or `.`
            are left out) or a glob of `*`, `?`, `**` and `[..]`; local or s3://. A path that exists
            is taken literally, magic characters and all.
        format: `auto` goes by suffix; any other takes a file or a glob's matches as that format
            and, of a folder, the files with one of its suffixes.
        options: fsspec storage options.
        ignore: patterns of files to leave out of a folder or a glob.

    Raises:
        NightrankError: E_EMPTY where nothing is found, or a link leads nowhere; E_SCHEMA for a file
            of unknown format that `ignore` does not name, or whose name is not UTF-8; E_AUTH
            where access is denied, E_STORE_RETRY where the store does not answer.
    """
    filesystem, place = connect(path, options)
    with store_errors(path, "E_EMPTY"):
        found = find_files(filesystem, place, path, format, ignore)
    if not found.files:
        do = "correct the path; a folder is searched for " + KNOWN
        what = "no input files found"
        if left_out := found.left_out.describe():
            what += f"; {left_out}"
        raise NightrankError("E_EMPTY", what, path, do)
    files = []
    for url, entry in found.files.items():
        kind, compression = kind_of(url, format)
        with store_errors(url, "E_EMPTY"):
            # Before it is read: what is written after that is a change.
            modified = 0 if is_remote(url) else os.stat(entry.full).st_mtime_ns
            identity = f"etag:{entry.etag}" if is_remote(url) else _sha256(entry.full)
        files.append(InputFile(url, entry.size, identity, kind, compression, modified))
    return Inventory(tuple(files), found.left_out)


def list_inputs(
    path: str, format: str = "auto", options: dict[str, Any] | None = None
) -> tuple[InputFile, ...]:
    """The files of an `inventory`."""
    return inventory(path, format, options).files


def check_partitions(path: str, patterns: list[str], files: tuple[InputFile, ...]) -> None:
    """Refuses an input of which a declared part is missing: that is no mass deletion.

    Args:
        path: the input, for the message.
        patterns: each must match the url of a file at least, as `fnmatch` matches, from any folder
            on: `year=2026/*` as well as `*.parquet`.
        files: what was found.

    Raises:
        NightrankError: E_EMPTY.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(file.url, f"*{pattern}") for file in files):
            what = f"no input file matches the declared partition {pattern!r}"
            do = "deliver it, or take it out of corpus.partitions if its documents are to go"
            raise NightrankError("E_EMPTY", what, path, do)


def check_unchanged(file: InputFile, options: dict[str, Any] | None = None) -> None:
    """Refuses a file that is not what was planned: its size, the ETag of an S3 object.

    A local file that was written since, and has the same size, is hashed again, once a process.

    Raises:
        NightrankError: E_INPUT_CHANGED.
    """
    filesystem, place = connect(file.url, options)
    with store_errors(file.url, "E_INPUT_CHANGED"):
        info = filesystem.info(place)
    etag = f"etag:{str(info.get('ETag', '')).strip(chr(34))}"
    if int(info["size"]) != file.size:
        raise changed(file, f"{file.size} bytes", f"{info['size']} bytes")
    if file.identity.startswith("etag:") and etag != file.identity:
        raise changed(file, file.identity, etag)
    if file.identity.startswith("sha256:"):
        with store_errors(file.url, "E_INPUT_CHANGED"):
            modified = os.stat(place).st_mtime_ns
            found = file.identity if modified == file.modified else _sha256_at(place, modified)
        if found != file.identity:
            raise changed(file, file.identity, found)


def changed(file: InputFile, expected: str, found: str) -> NightrankError:
    """The error for a file that is not what was planned."""
    what = f"input changed since planning: expected {expected}, found {found}"
    return NightrankError("E_INPUT_CHANGED", what, file.url, "run again to plan anew")


def plan_splits(
    files: tuple[InputFile, ...],
    options: dict[str, Any] | None = None,
    target_bytes: int = TARGET_BYTES,
    by_file: bool = False,
) -> tuple[Split, ...]:
    """Cuts files into parts of about `target_bytes`; never a function of the number of workers.

    Args:
        files: in the order of the input.
        options: fsspec storage options.
        target_bytes: bytes of a part; a Parquet row group or a line is never cut.
        by_file: never cut a file, so that one that turns out bad can be left out as a whole
            (`on_bad_file: reject`).

    Returns:
        Parquet as runs of row groups, plain JSONL as byte ranges, all else whole. Only the footers
        of Parquet files above the target are read; one that cannot be read stays whole, and its
        reader says what is wrong with it.
    """
    splits: list[Split] = []
    for file in files:
        cuts = [0, file.size]
        kind: Literal["whole", "bytes", "row_groups"] = "whole"
        if file.size > target_bytes and not by_file:
            if file.format == "parquet":
                cuts, kind = _row_group_cuts(file, options, target_bytes), "row_groups"
            elif file.format == "jsonl" and not file.compression:
                # Equal parts: a remainder of a few bytes would be a task of its own.
                parts = -(-file.size // target_bytes)
                cuts, kind = [file.size * i // parts for i in range(parts + 1)], "bytes"
        if len(cuts) == 2:
            splits.append(Split(file, "whole", 0, file.size))
        else:
            splits += [Split(file, kind, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    return tuple(splits)


def is_inside(output_root: str, input_path: str) -> bool:
    """Whether a run would read its own output: one of the two paths lies in the other.

    A glob counts by what it can match: `data/*.jsonl` does not reach into `data/lake`.
    """
    if is_remote(output_root) != is_remote(input_path):
        return False
    root, path = _parts(output_root), _parts(input_path)
    fixed = next((i for i, part in enumerate(path) if MAGIC.search(part)), len(path))
    if path[: len(root)] == root:
        return True
    if fixed == len(path) or "**" in path:
        return root[:fixed] == path[:fixed]
    reached = len(root) < len(path)
    return reached and all(map(fnmatch.fnmatchcase, root, path))


@functools.lru_cache(maxsize=4096)
def _sha256_at(path: str, modified: int) -> str:
    """Of the file as it was written then: the parts of a large one are read by one process."""
    return _sha256(path)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _row_group_cuts(file: InputFile, options: dict[str, Any] | None, target: int) -> list[int]:
    filesystem, place = connect(file.url, options)
    with store_errors(file.url, "E_INPUT_CHANGED"):
        stream = filesystem.open(place, "rb")
    with stream:
        try:
            plain = PlainFooter(stream, file.size)
            footer = pq.ParquetFile(plain, **READ_SETTINGS).metadata
        except (pa.ArrowException, OSError, RecursionError):
            return [0, file.size]
    cuts, held = [0], 0
    for group in range(footer.num_row_groups):
        size = footer.row_group(group).total_byte_size
        if held and held + size > target:
            cuts.append(group)
            held = 0
        held += size
    return [*cuts, footer.num_row_groups]


def _parts(path: str) -> list[str]:
    if is_remote(path):
        scheme, _, rest = path.partition("://")
        return [scheme, *(part for part in rest.split("/") if part not in ("", "."))]
    return [p for p in os.path.realpath(path.removeprefix("file://")).split(os.sep) if p]
