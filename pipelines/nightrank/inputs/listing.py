"""Formats by suffix, and the translation of a store's errors."""

from __future__ import annotations

import errno
import posixpath
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
    """Raises a filesystem's errors as NightrankError; a missing file has the code `missing`."""
    try:
        yield
    except NightrankError:
        raise
    except FileNotFoundError as error:
        what = "no input files found" if missing == "E_EMPTY" else "input deleted since planning"
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
        if name == "ParamValidationError":  # botocore refuses the request before it is sent.
            what = "no such file: the bucket's name or the key is not valid"
            raise NightrankError(missing, what, where, "correct the path") from None
        if name == "FileExpired":
            what = "the input changed since planning: the object was replaced while it was read"
            do = "run the same command again, which makes a new plan"
            raise NightrankError("E_INPUT_CHANGED", what, where, do) from None
        what, do = f"cannot read: {name}: {error}", "run the same command when the store answers"
        raise NightrankError("E_STORE_RETRY", what, where, do) from None


def suffixes(name: str) -> tuple[str, str]:
    """Format and compression of a file name; empty where unknown."""
    parts = posixpath.basename(name).lower().split(".")[1:]
    compression = COMPRESSIONS.get(parts[-1], "") if parts else ""
    if compression:
        parts.pop()
    kind = FORMATS.get(parts[-1], "") if parts else ""
    return ("", "") if kind == "parquet" and compression else (kind, compression)


def kind_of(url: str, format: str) -> tuple[str, str]:
    """Format and compression of a file.

    Raises:
        NightrankError: E_SCHEMA for an unknown suffix under `auto`.
    """
    kind, compression = suffixes(url)
    if format == "auto":
        if not kind:
            do = f"rename it to one of {KNOWN}, or set format"
            raise NightrankError("E_SCHEMA", "the file's suffix is of no known format", url, do)
        return kind, compression
    last = url.lower().rsplit(".", 1)[-1]
    return format, "" if format == "parquet" else COMPRESSIONS.get(last, "")
