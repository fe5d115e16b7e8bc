"""A Parquet file of the user, without the Arrow schema that its writer may have stored in it.

On opening a file pyarrow rebuilds the types of such a schema, also extension types, whatever the
options are: the code of a registered type would get bytes of the file. The schema of Parquet itself
is sufficient here.
"""

from __future__ import annotations

import io
from typing import Any

# How every Parquet file of the user is opened. A registered extension type would run its own code.
# INT96 are Spark's timestamps: in nanoseconds, Arrow's default, years before 1677 and after 2262
# overflow without an error.
READ_SETTINGS: dict[str, bool | str] = {
    "arrow_extensions_enabled": False,
    "coerce_int96_timestamp_unit": "us",
}
TAIL_BYTES = 8
# Same length, so that no offset moves.
NAME, OTHER_NAME = b"ARROW:schema", b"arrow-schema"


class PlainFooter(io.RawIOBase):
    """An unchanged file, except for the name of the Arrow schema in its footer.

    Args:
        inner: an open file that can seek.
        size: of the file, bytes.
    """

    def __init__(self, inner: Any, size: int) -> None:
        super().__init__()
        self._inner, self._size, self._position = inner, size, 0
        inner.seek(max(0, size - TAIL_BYTES))
        length = int.from_bytes(inner.read(TAIL_BYTES)[:4], "little")
        start = size - TAIL_BYTES - length
        self._start = start if start >= 0 else size
        inner.seek(self._start)
        self._footer = inner.read(size - self._start).replace(NAME, OTHER_NAME)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a byte."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Reads `size` bytes, fewer only at the end."""
        begin = self._position
        end = self._size if size is None or size < 0 else min(self._size, begin + size)
        data = b""
        if begin < min(end, self._start):
            self._inner.seek(begin)
            data = self._inner.read(min(end, self._start) - begin)
        if end > self._start:
            data += self._footer[max(0, begin - self._start) : end - self._start]
        self._position = begin + len(data)
        return data
