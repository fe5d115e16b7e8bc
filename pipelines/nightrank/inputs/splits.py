"""The user's files as they are at planning: their names, sizes and identities; and their splits.

A plan holds `InputFile`s and `Split`s. Files are not listed again, and a file that changed after
planning is refused. An identity is the sha256 of a local file's bytes, or the ETag of an S3 object,
which needs no read.
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
from nightrank.storage.filesystem import StorageOptions, connect, is_remote

# 128 MiB of JSONL take 1.1 s to read, check and hash on one core: a lost unit costs little.
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
        modified: when a local file was written, in nanoseconds since the epoch; not part of its
            identity, it only helps to notice a change.
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
    """A part of a file that one unit reads.

    Attributes:
        file: the whole file.
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
    """The files of an input's path.

    Attributes:
        files: the files to read, sorted by path.
        left_out: the files that are not read, by reason.
    """

    files: tuple[InputFile, ...] = ()
    left_out: LeftOut = field(default_factory=LeftOut)


def inventory(
    path: str,
    format: str = "auto",
    options: StorageOptions | None = None,
    ignore: Iterable[str] = (),
) -> Inventory:
    """Lists and identifies the files of a path.

    Args:
        path: a file, a folder (read recursively, links are followed; names that start with `_` or
            `.` are left out) or a glob of `*`, `?`, `**` and `[..]`; local or s3://. An existing
            path is used literally, also if it has glob characters.
        format: `auto` goes by suffix. Any other reads a file or the matches of a glob as that
            format and, in a folder, only the files with one of its suffixes.
        options: of the store.
        ignore: patterns of files to leave out of a folder or a glob.

    Raises:
        NightrankError: E_EMPTY where there is no file, or for a link to a missing one; E_SCHEMA for
            a file of unknown format that `ignore` does not match, or whose name is not UTF-8;
            E_AUTH where access is denied; E_STORE_RETRY where the store does not answer.
    """
    filesystem, place = connect(path, options)
    with store_errors(path, "E_EMPTY"):
        listed = find_files(filesystem, place, path, format, ignore)
    if not listed.files:
        do = "correct the path; a folder is searched for " + KNOWN
        what = "no input files found"
        if left_out := listed.left_out.describe():
            what += f"; {left_out}"
        raise NightrankError("E_EMPTY", what, path, do)
    files = []
    for url, entry in listed.files.items():
        kind, compression = kind_of(url, format)
        with store_errors(url, "E_EMPTY"):
            # Before it is read: a later write is a change.
            modified = 0 if is_remote(url) else os.stat(entry.full).st_mtime_ns
            identity = f"etag:{entry.etag}" if is_remote(url) else _sha256(entry.full)
        files.append(InputFile(url, entry.size, identity, kind, compression, modified))
    return Inventory(tuple(files), listed.left_out)


def list_inputs(
    path: str, format: str = "auto", options: StorageOptions | None = None
) -> tuple[InputFile, ...]:
    """The files of an `inventory`."""
    return inventory(path, format, options).files


def check_partitions(path: str, patterns: list[str], files: tuple[InputFile, ...]) -> None:
    """Refuses an input without a declared partition, which would else delete its documents.

    Args:
        path: the input, for the message.
        patterns: each must match the url of at least one file by `fnmatch`, from any folder on:
            `year=2026/*` as well as `*.parquet`.
        files: the listed files.

    Raises:
        NightrankError: E_EMPTY.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(file.url, f"*{pattern}") for file in files):
            what = f"no input file matches the declared partition {pattern!r}"
            do = "deliver it, or take it out of corpus.partitions if its documents are to go"
            raise NightrankError("E_EMPTY", what, path, do)


def check_unchanged(file: InputFile, options: StorageOptions | None = None) -> None:
    """Refuses a file that changed since planning, by its size and the ETag of an S3 object.

    A local file that was written since and has the same size is hashed again, once per process.

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
            same = modified == file.modified
            identity = file.identity if same else _sha256_at(place, modified)
        if identity != file.identity:
            raise changed(file, file.identity, identity)


def changed(file: InputFile, expected: str, found: str) -> NightrankError:
    """The error for a file that changed since planning."""
    what = f"the input changed since planning: expected {expected}, found {found}"
    do = "run the same command again, which makes a new plan"
    return NightrankError("E_INPUT_CHANGED", what, file.url, do)


def plan_splits(
    files: tuple[InputFile, ...],
    options: StorageOptions | None = None,
    target_bytes: int = TARGET_BYTES,
    by_file: bool = False,
) -> tuple[Split, ...]:
    """Divides files into parts of about `target_bytes`, whatever the number of workers.

    Args:
        files: in the order of the input.
        options: of the store.
        target_bytes: bytes of a part; a Parquet row group or a line is not divided.
        by_file: keep files whole, so that a bad one can be left out (`on_bad_file: reject`).

    Returns:
        Parquet as ranges of row groups, uncompressed JSONL as byte ranges, other files whole. Only
        the footers of Parquet files above the target are read; a file with a damaged footer stays
        whole, and its reader reports it.
    """
    splits: list[Split] = []
    for file in files:
        cuts = [0, file.size]
        kind: Literal["whole", "bytes", "row_groups"] = "whole"
        if file.size > target_bytes and not by_file:
            if file.format == "parquet":
                cuts, kind = _row_group_cuts(file, options, target_bytes), "row_groups"
            elif file.format == "jsonl" and not file.compression:
                # Equal parts: a remainder of a few bytes would be a unit of its own.
                parts = -(-file.size // target_bytes)
                cuts, kind = [file.size * i // parts for i in range(parts + 1)], "bytes"
        if len(cuts) == 2:
            splits.append(Split(file, "whole", 0, file.size))
        else:
            splits += [Split(file, kind, a, b) for a, b in zip(cuts, cuts[1:], strict=False)]
    return tuple(splits)


def is_inside(output_root: str, input_path: str) -> bool:
    """Whether a run would read its own output: one of the two paths is inside the other.

    A glob is inside only where it can match: `data/*.jsonl` does not reach into `data/lake`.
    """
    if is_remote(output_root) != is_remote(input_path):
        return False
    root, path = _parts(output_root), _parts(input_path)
    fixed = next((i for i, part in enumerate(path) if MAGIC.search(part)), len(path))
    if path[: len(root)] == root:
        return True
    if fixed == len(path) or "**" in path:
        return root[:fixed] == path[:fixed]
    return len(root) < len(path) and all(map(fnmatch.fnmatchcase, root, path))


@functools.lru_cache(maxsize=4096)
def _sha256_at(path: str, modified: int) -> str:
    """The sha256 of a file as of that write; cached, as one process reads several parts of it."""
    return _sha256(path)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _row_group_cuts(file: InputFile, options: StorageOptions | None, target: int) -> list[int]:
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
