"""Finding input files: paths, folders, globs, suffixes, and a store's errors in our words."""

from __future__ import annotations

import errno
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nightrank.errors import NightrankError
from nightrank.storage.filesystem import is_remote

FORMATS = {
    "parquet": "parquet",
    "pq": "parquet",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "jsonl",
    "csv": "csv",
    "tsv": "tsv",
}
COMPRESSIONS = {"gz": "gzip", "gzip": "gzip", "zst": "zstd", "zstd": "zstd"}
KNOWN = ".parquet, .pq, .jsonl, .ndjson, .json, .csv, .tsv; text also with .gz, .gzip, .zst, .zstd"
MAGIC = re.compile(r"[*?\[]")


@contextmanager
def store_errors(where: str, missing: str) -> Iterator[None]:
    """Turns a filesystem's errors into ours; a missing file becomes the code `missing`."""
    try:
        yield
    except NightrankError:
        raise
    except FileNotFoundError as error:
        what = "no input files found" if missing == "E_EMPTY" else "input vanished since planning"
        if "bucket" in str(error).lower() and is_remote(where):
            what += f": bucket {where.split('/')[2]!r} does not exist"
        raise NightrankError(missing, what, where, "correct the path") from None
    except (NotADirectoryError, IsADirectoryError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise NightrankError(
            missing, f"no such file: {reason}", where, "correct the path"
        ) from None
    except PermissionError as error:
        what, do = f"access denied: {error}", "grant read access, or renew the credentials"
        raise NightrankError("E_AUTH", what, where, do) from None
    except Exception as error:
        name = type(error).__name__
        if isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            what = f"no such file: {error.strerror}"
            raise NightrankError(missing, what, where, "correct the path") from None
        if name == "FileExpired":
            what = "input changed since planning: the object was replaced while it was read"
            raise NightrankError("E_INPUT_CHANGED", what, where, "run again to plan anew") from None
        what, do = f"cannot read: {name}: {error}", "run the same command when the store answers"
        raise NightrankError("E_STORE_RETRY", what, where, do) from None


def find_files(
    filesystem: Any, place: str, path: str, format: str
) -> tuple[dict[str, dict[str, Any]], str, str]:
    """Finds the files behind a path.

    Args:
        filesystem: of fsspec.
        place: the path within it.
        path: as the user writes it.
        format: `auto`, or the one format that counts in a folder.

    Returns:
        fsspec's info by full path; the folder they were found in; how the user writes that folder.
    """
    kept = path.removeprefix("file://").rstrip("/") or "/"
    magic = MAGIC.search(kept.partition("://")[2] if is_remote(kept) else kept) is not None
    if not magic or filesystem.exists(place):
        info = filesystem.info(place)
        if info["type"] != "directory":
            return {place: info}, place, kept
        found = filesystem.find(place, detail=True)
        found = {name: info for name, info in found.items() if _is_wanted(name, format)}
    else:
        found = filesystem.glob(place, detail=True)
        # The fixed part is what the user wrote up to the first component with a magic character.
        tail = len(kept.split("/")) - next(
            i for i, part in enumerate(kept.split("/")) if MAGIC.search(part)
        )
        place = "/".join(place.split("/")[:-tail]) or "/"
        kept = "/".join(kept.split("/")[:-tail]) or ("/" if kept.startswith("/") else "")
    return (
        {
            name: info
            for name, info in found.items()
            # S3 consoles mark a folder with an empty object whose key ends in a slash.
            if info["type"] == "file"
            and not name.endswith("/")
            and not any(p[:1] in ("_", ".") for p in posixpath.relpath(name, place).split("/"))
        },
        place,
        kept,
    )


def _suffixes(name: str) -> tuple[str, str]:
    """Format and compression by name; empty where unknown."""
    parts = posixpath.basename(name).lower().split(".")[1:]
    compression = COMPRESSIONS.get(parts[-1], "") if parts else ""
    if compression:
        parts.pop()
    kind = FORMATS.get(parts[-1], "") if parts else ""
    return ("", "") if kind == "parquet" and compression else (kind, compression)


def _is_wanted(name: str, format: str) -> bool:
    kind = _suffixes(name)[0]
    return bool(kind) if format == "auto" else kind == format


def kind_of(url: str, format: str) -> tuple[str, str]:
    """Format and compression of a file.

    Raises:
        NightrankError: E_SCHEMA for an unknown suffix under `auto`.
    """
    kind, compression = _suffixes(url)
    if format == "auto":
        if not kind:
            do = f"rename it to one of {KNOWN}, or set format"
            raise NightrankError("E_SCHEMA", "file format not known by its suffix", url, do)
        return kind, compression
    last = url.lower().rsplit(".", 1)[-1]
    return format, "" if format == "parquet" else COMPRESSIONS.get(last, "")
