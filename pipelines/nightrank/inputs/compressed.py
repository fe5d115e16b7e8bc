"""Decompressed streams: gzip as gzip(1) reads it, zstd, and their faults in words.

Arrow's gzip reader refuses the zeros that tapes, block devices and some object stores pad files
with; gzip(1) and Python ignore them. Its zstd reader holds windows of up to 128 MiB in memory, the
format's recommended limit, and refuses larger ones: `zstd --long=31` needs 2 GiB.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol, cast

import pyarrow as pa

from nightrank.inputs.raw import BadFile

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # Behind a byte from 0x50 to 0x5f.
MAX_WINDOW_LOG = 27
HEAD_BYTES = 18
# Of zlib: a gzip header and trailer around each member, checked by it.
GZIP_MEMBERS = 31
DAMAGED = "copy the file again from its source"


class Stream(Protocol):
    """What gives bytes."""

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, fewer only at the end."""
        ...


def decompressed(raw: Any, compression: str) -> Stream:
    """A file's decompressed bytes.

    Args:
        raw: the file, at its start.
        compression: empty, `gzip` or `zstd`.
    """
    if compression == "gzip":
        return GzipStream(raw)
    return ZstdStream(raw) if compression == "zstd" else cast(Stream, raw)


class GzipStream:
    """Reads gzip members one after the other; zeros after a member are padding."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._member: Any = None
        self._input, self._members = b"", 0

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, fewer only at the end.

        Raises:
            BadFile: the file is damaged, cut off, or something else follows the last member.
        """
        parts, left = [], size
        while left > 0 and (self._member is not None or self._begin()):
            data = self._inflate(left)
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _inflate(self, most: int) -> bytes:
        """Some bytes of the current member; none at its end."""
        fresh = not self._input
        if fresh:
            self._input = self._raw.read(CHUNK_BYTES)
        try:
            data: bytes = self._member.decompress(self._input, most)
        except zlib.error as error:
            raise BadFile("unreadable_file", f"damaged gzip: {error}", DAMAGED) from None
        if self._member.eof:
            self._input, self._member = self._member.unused_data, None
            return data
        if fresh and not self._input and not data:
            raise BadFile("unreadable_file", "the gzip file ends in the middle", DAMAGED)
        self._input = self._member.unconsumed_tail
        return data

    def _begin(self) -> bool:
        """Begins the next member, where there is one."""
        while True:
            if self._members:
                self._input = self._input.lstrip(b"\0")
            if len(self._input) >= len(GZIP_MAGIC) or not (more := self._raw.read(CHUNK_BYTES)):
                break
            self._input += more
        if not self._input:
            return False
        if not self._input.startswith(GZIP_MAGIC):
            what = "the file is not gzip, as its name says"
            if self._members:
                what = "something that is not gzip follows the gzip data"
            raise BadFile("unreadable_file", what, "rename the file, or compress it again")
        self._members += 1
        self._member = zlib.decompressobj(GZIP_MEMBERS)
        return True


class ZstdStream:
    """Reads zstd frames one after the other."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, fewer only at the end.

        Raises:
            BadFile: the file is damaged, cut off, needs too large a window, or something else
                follows the last frame.
        """
        try:
            return bytes(self._stream.read(size))
        except OSError as error:
            if self._raw.failure is not None:
                raise
            raise self._fault(str(error)) from None

    def _fault(self, message: str) -> BadFile:
        """What the library says, in our words."""
        self._raw.seek(0)
        head = self._raw.read(HEAD_BYTES)
        if "too much memory" in message:
            log = (zstd_window(head) - 1).bit_length()
            size = f"windows of {1 << max(0, log - 20)} MiB"
            if log <= MAX_WINDOW_LOG:  # Of a later frame.
                size, log = "windows", 31
            what = f"it needs zstd {size}, more than the {1 << (MAX_WINDOW_LOG - 20)} MiB supported"
            do = f"recompress it: zstd -dc --long={log} FILE | zstd -o NEW"
            return BadFile("unreadable_file", what, do)
        if "Truncated" in message:
            return BadFile("unreadable_file", "the zstd file ends in the middle", DAMAGED)
        if "frame descriptor" in message:
            what = "the file is not zstd, as its name says"
            if head.startswith(ZSTD_MAGIC) or head[1:4] == SKIPPABLE_MAGIC:
                what = "something that is not zstd follows the zstd data"
            return BadFile("unreadable_file", what, "rename the file, or compress it again")
        return BadFile("unreadable_file", f"damaged zstd: {message.splitlines()[0]}", DAMAGED)


def zstd_window(head: bytes) -> int:
    """Bytes that a zstd frame must be given to look back; 0 where the head is of no frame.

    Args:
        head: the frame's first 18 bytes.

    RFC 8878, section 3.1.1.1: a frame that is one segment has no window descriptor, and its window
    is its content.
    """
    if not head.startswith(ZSTD_MAGIC) or len(head) < 6:
        return 0
    flags = head[4]
    if not flags & 0x20:
        base = 1 << (10 + (head[5] >> 3))
        return base + (base >> 3) * (head[5] & 7)
    start = 5 + (0, 1, 2, 4)[flags & 3]  # Behind the dictionary's id.
    width = (1, 2, 4, 8)[flags >> 6]
    size = int.from_bytes(head[start : start + width], "little")
    return size + 256 if width == 2 else size
