"""Verified reading of committed files: what a worker is given to open its inputs with.

A file that is read whole is checked against the sha256 in its record before it is parsed: FAISS
loads flipped bits without a word, and Parquet without page checksums does too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import NightrankError
from pipelines.storage.dataset import FileRef
from pipelines.storage.scatter import Range, read_range
from pipelines.storage.store import Store


class Reader:
    """Opens committed files of one store; nothing is returned unchecked."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def table(self, ref: FileRef, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole Parquet file (or some of its columns) as one table, checked by sha256.

        Raises:
            NightrankError: E_CORRUPT for missing, truncated or altered bytes.
        """
        table = pq.read_table(
            pa.BufferReader(self.buffer(ref)),
            columns=list(columns) if columns is not None else None,
            page_checksum_verification=True,
        )
        if table.num_rows != ref.rows:
            raise self._corrupt(ref, f"{ref.rows} rows", f"{table.num_rows}")
        return table

    def slices(
        self, ref: FileRef, start: int, stop: int, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """Row groups that overlap rows [start, stop), each with the number of its first row.

        Only those row groups are read; their page checksums stand in for the file's sha256.
        """
        with self._store.open_file(ref.key) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            if parquet.metadata.num_rows != ref.rows:
                raise self._corrupt(ref, f"{ref.rows} rows", f"{parquet.metadata.num_rows}")
            first = 0
            for group in range(parquet.metadata.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if first < stop and first + rows > start:
                    yield first, parquet.read_row_group(group, columns=columns)
                first += rows

    def range(self, ref: FileRef, of: Range) -> pa.Table:
        """One key's rows of a scatter file."""
        return self.ranges(ref, [of])

    def ranges(self, ref: FileRef, adjacent: Sequence[Range]) -> pa.Table:
        """The rows of adjacent keys of a scatter file, in one read."""
        start = adjacent[0].offset
        try:
            data = self._store.read(ref.key, start, adjacent[-1].offset + adjacent[-1].length)
        except FileNotFoundError:
            raise self._corrupt(ref, "a file", "none") from None
        except OSError as error:  # S3 refuses a range that begins behind the end.
            raise self._corrupt(ref, "a range", str(error)) from None
        view, where = memoryview(data), self._store.path(ref.key)
        cuts = [(one, one.offset - start) for one in adjacent]
        return pa.concat_tables(
            [read_range(view[at : at + one.length], one, where) for one, at in cuts]
        )

    def buffer(self, ref: FileRef) -> pa.Buffer:
        """A whole file's bytes, checked by size and sha256; memory-mapped on a local disk."""
        data, found = self._whole(ref)
        if found and self._store.remote:  # Cut or altered on its way, perhaps: asked for once more.
            data, found = self._whole(ref)
        if found:
            raise self._corrupt(ref, *found)
        return data

    def _whole(self, ref: FileRef) -> tuple[pa.Buffer, tuple[str, str] | None]:
        """The bytes, and what was expected and found where they are not what was committed."""
        try:
            if self._store.remote:
                data = pa.py_buffer(self._store.read(ref.key))
            elif ref.size == 0:
                data = pa.py_buffer(Path(self._store.path(ref.key)).read_bytes())
            else:
                data = pa.memory_map(self._store.path(ref.key)).read_buffer()
        except FileNotFoundError:
            return None, ("a file", "none")
        if data.size != ref.size:
            return data, (f"{ref.size} bytes", f"{data.size}")
        if (found := hashlib.sha256(data).hexdigest()) != ref.sha256:
            return data, (f"sha256 {ref.sha256}", found)
        return data, None

    def local(self, ref: FileRef) -> str:
        """A local path that holds the file, checked; remote files are cached by digest."""
        if not self._store.remote:
            self.buffer(ref)
            return self._store.path(ref.key)
        folder = os.path.join(tempfile.gettempdir(), f"nightrank-cache-{os.getuid()}")
        os.makedirs(folder, mode=0o700, exist_ok=True)
        target = os.path.join(folder, ref.sha256)
        if not os.path.exists(target):
            data = self.buffer(ref)
            with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
                file.write(data)
            os.replace(file.name, target)
        return target

    def _corrupt(self, ref: FileRef, expected: str, found: str) -> NightrankError:
        do = "unless published, delete this file and its dataset's manifest.json and run again"
        where = self._store.path(ref.key)
        return NightrankError("E_CORRUPT", f"expected {expected}, found {found}", where, do)
