"""FAISS indexes as files, with FAISS's silent failures made loud.

FAISS files carry no checksum, and one with flipped bits is loaded without a word: verify its sha256
before reading it.
"""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO, cast

from nightrank.errors import NightrankError
from nightrank.retrieval.faiss_library import Index, library, reason

# Four-character code of inverted lists kept in another file, named by an absolute path and opened
# for writing (OnDiskInvertedLists.cpp): an index file must not be able to name other files.
ON_DISK_LISTS = b"ilod"
# Reading lists of PQ codes, FAISS checks a table of lists x codes against its limit, though
# inner products need none; for 2,048 lists of 192 codes 25 MB, where a trained, empty index has 3.
# This is enough for 16,384 lists of 512 codes, and little for a damaged header to ask for.
TABLE_BYTES = 512 << 20


def write(index: Index, file: BinaryIO) -> None:
    """Writes an index in CPU form to an open file; the caller hashes, syncs and commits it.

    FAISS's own `write_index(path)` is never used: on a full disk it can report success and leave a
    truncated file, because the last block fails in a destructor that only prints
    (faiss/impl/io.cpp). Here every error of `file.write` comes through.
    """

    def put(block: bytes) -> None:
        written = file.write(block)
        if written is not None and written != len(block):
            raise OSError(f"wrote {written} of {len(block)} bytes of an index")

    faiss = library()
    faiss.write_index(index, faiss.PyCallbackIOWriter(put))


def size(index: Index) -> int:
    """Bytes that `write` writes."""
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
        NightrankError: E_CORRUPT for a file that FAISS refuses, that goes on after the index, that
            has another metric, or that refers to another file.
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
            raise NightrankError("E_CORRUPT", "the index refers to lists in another file", name)
        return block

    faiss = library()
    # A damaged header may announce any size, and memory is asked for before the bytes are found
    # missing. No loop over stored parts, and no array but the said one, is longer than the file.
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
        raise NightrankError("E_CORRUPT", "the file goes on after the index", name)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise NightrankError("E_CORRUPT", "the index is not one of inner products", name)
    return index
