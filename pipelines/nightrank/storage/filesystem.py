"""The only module that imports fsspec: local paths and s3:// urls behind one interface."""

from __future__ import annotations

import datetime
import os
from typing import Any, TypeAlias, TypedDict

import fsspec
from fsspec.utils import glob_translate

from nightrank.errors import NightrankError

# Of s3fs, as `storage_options` of a config has them, and `retry`: an open set of keys.
StorageOptions: TypeAlias = dict[str, Any]


class FileInfo(TypedDict, total=False):
    """fsspec's info of a file or folder; local files have `mtime`, S3 objects the last two."""

    name: str
    size: int
    type: str
    mtime: float
    ETag: str
    LastModified: datetime.datetime


def is_remote(url: str) -> bool:
    """Whether `url` names an object store rather than a local path."""
    return "://" in url and not url.startswith("file://")


def connect(url: str, options: StorageOptions | None = None) -> tuple[Any, str]:
    """Opens the filesystem of a url.

    Args:
        url: a local path (relative to the working directory) or `s3://bucket/key`.
        options: of s3fs, e.g. `endpoint_url`, and `retry`; credentials come from the AWS chain.

    Returns:
        The fsspec filesystem and the path within it, absolute for local ones. Listings are not
        cached: another process may have written in the meantime.

    Raises:
        NightrankError: E_CONFIG for a scheme other than file and s3, or unknown retry limits.
    """
    if not is_remote(url):
        return fsspec.filesystem("file"), os.path.abspath(url.removeprefix("file://"))
    scheme, _, path = url.partition("://")
    if scheme != "s3":
        do = "use a local path or s3://bucket/prefix"
        raise NightrankError("E_CONFIG", f"scheme {scheme}:// is not supported", url, do)
    from nightrank.storage.s3 import RetryingS3  # Imports s3fs, which takes half a second.

    return RetryingS3(use_listings_cache=False, **(options or {})), path.rstrip("/")


def glob_pattern(glob: str) -> str:
    """The regular expression of a glob: `*`, `?` and `[..]` within a part, `**` for any parts.

    Raises:
        ValueError: `**` is not a part of its own.
    """
    return str(glob_translate(glob))
