"""FAISS indexes as files; failures that FAISS ignores raise errors.

FAISS files have no checksum, and a file with flipped bits is loaded without an error: verify its
sha256 before reading it.
"""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO, cast

from nightrank.errors import NightrankError
from nightrank.retrieval.faiss_library import Index, library, reason

# Four-character code of inverted lists in another file, which is named by an absolute path and
# opened for writing (OnDiskInvertedLists.cpp): an index file must not name other files.
ON_DISK_LISTS = b"ilod"
# On reading lists of PQ codes FAISS checks a table of lists x codes against its limit, though inner
# products need none: 25 MB for 2,048 lists of 192 codes, where a trained, empty index has 3 MB.
# This allows 16,384 lists of 512 codes, and bounds what a damaged header can allocate.
TABLE_BYTES = 512 << 20


def write(index: Index, file: BinaryIO) -> None:
    """Writes an index in its CPU form to an open file; the caller hashes, syncs and commits it.

    FAISS's own `write_index(path)` is never used: on a full disk it can report success and leave a
    truncated file, because the last block fails in a destructor that only prints
    (faiss/impl/io.cpp). Here every error of `file.write` is raised.
    """

    def put(block: bytes) -> None:
        written = file.write(block)
        if written is not None and written != len(block):
            raise OSError(f"wrote {written} of {len(block)} bytes of an index")

    faiss = library()
    faiss.write_index(index, faiss.PyCallbackIOWriter(put))


def size(index: Index) -> int:
    """The bytes of an index as a file."""
    written = 0

    class Counter(io.RawIOBase):
        def write(self, block: Any) -> int:
            nonlocal written
            written += len(block)
            return len(block)

    write(index, cast(BinaryIO, Counter()))
    return written


def read(source: str | os.PathLike[str] | bytes | BinaryIO) -> Index:
    """Reads an index from a local path, from bytes or from an open file that can seek.

    Raises:
        NightrankError: E_CORRUPT for a file that FAISS refuses, with bytes after the index, with
            another metric, or that refers to another file.
    """
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return _read(file, os.fspath(source))
    opened = io.BytesIO(source) if isinstance(source, bytes) else source
    return _read(opened, str(getattr(source, "name", "index")))


def _read(file: BinaryIO, name: str) -> Index:
    def get(size: int) -> bytes:
        block = file.read(size)
        if size == len(ON_DISK_LISTS) and block == ON_DISK_LISTS:
            raise NightrankError(
                "E_CORRUPT", "expected an index in one file, found lists in another file", name
            )
        return block

    faiss = library()
    # A damaged header may announce any size, and FAISS allocates it before it finds bytes missing.
    # No loop over stored parts, and no array but the table above, is longer than the file.
    begin = file.tell()
    size = file.seek(0, io.SEEK_END) - begin
    file.seek(begin)
    faiss.set_deserialization_vector_byte_limit(max(size, TABLE_BYTES) + 1)
    faiss.set_deserialization_loop_limit(size + 1)
    try:
        index = faiss.read_index(faiss.PyCallbackIOReader(get))
    except (RuntimeError, MemoryError) as error:
        raise NightrankError("E_CORRUPT", f"not a FAISS index: {reason(error)}", name) from None
    if file.read(1):
        raise NightrankError(
            "E_CORRUPT", "expected the end of the file after the index, found more bytes", name
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise NightrankError(
            "E_CORRUPT", "expected an index of inner products, found another metric", name
        )
    return index
