"""Decompressed streams: gzip as gzip(1) reads it, and zstd with windows of any size.

Arrow's readers are not used. Its gzip reader refuses the zeros that tapes, block devices and some
object stores pad files with; gzip(1) and Python ignore them. Its zstd reader refuses windows above
128 MiB, which `zstd --long=31` writes; Python's reads them as fast (112 MB in 0.2 s, both).

Memory is one chunk of input, the bytes asked for, and of zstd the window: 2 GiB at most, and never
more than the frame decodes to.
"""

from __future__ import annotations

import zlib
from typing import Any, Protocol, cast

from backports import zstd

from nightrank.inputs.raw import BadFile

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # Follows a byte from 0x50 to 0x5f.
# Of zlib: a gzip header and trailer around each member, checked by it.
GZIP_MEMBERS = 31
# The largest window of the format that a 64-bit machine decodes.
WINDOW_LOG = 31
DAMAGED = "copy the file again from its source"


class Stream(Protocol):
    """A source of bytes."""

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


def compression_of(head: bytes) -> str:
    """`gzip` or `zstd` by a file's first four bytes; empty for any other."""
    if head.startswith(GZIP_MAGIC):
        return "gzip"
    is_zstd = head.startswith(ZSTD_MAGIC) or head[1:4] == SKIPPABLE_MAGIC
    return "zstd" if is_zstd else ""


class _FrameStream:
    """Reads compressed frames (gzip calls them members) one after the other."""

    name = ""
    # Bytes that may follow a frame and mean nothing.
    padding = b""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._frame: Any = None
        self._input, self._frames = b"", 0

    def read(self, size: int) -> bytes:
        """Reads `size` bytes, fewer only at the end.

        Raises:
            BadFile: the file is damaged, cut off, or something else follows the last frame.
        """
        parts, left = [], size
        while left > 0 and (self._frame is not None or self._begin()):
            data = self._decompress(left)
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def _open_frame(self) -> Any:
        """A decompressor of one frame."""
        raise NotImplementedError

    def _step(self, most: int) -> bytes:
        """At most so many bytes of the frame; keeps the input that it does not use."""
        raise NotImplementedError

    def _needs_input(self) -> bool:
        raise NotImplementedError

    def _decompress(self, most: int) -> bytes:
        """Some bytes of the current frame; none at its end."""
        fetched = self._needs_input()
        if fetched:
            self._input = self._raw.read(CHUNK_BYTES)
        at_end = fetched and not self._input
        try:
            data = self._step(most)
        except (zlib.error, zstd.ZstdError) as error:
            detail = f"damaged {self.name}: {error}"
            raise BadFile("unreadable_file", detail, DAMAGED) from None
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        elif at_end and not data:
            raise BadFile("unreadable_file", f"the {self.name} file ends in the middle", DAMAGED)
        return data

    def _begin(self) -> bool:
        """Begins the next frame, where there is one."""
        while True:
            if self._frames and self.padding:
                self._input = self._input.lstrip(self.padding)
            if len(self._input) >= len(ZSTD_MAGIC) or not (more := self._raw.read(CHUNK_BYTES)):
                break
            self._input += more
        if not self._input:
            return False
        if compression_of(self._input) != self.name:
            detail = f"the file is not {self.name}, as its name says"
            if self._frames:
                detail = f"something that is not {self.name} follows the {self.name} data"
            raise BadFile("unreadable_file", detail, "rename the file, or compress it again")
        self._frames += 1
        self._frame = self._open_frame()
        return True


class GzipStream(_FrameStream):
    """Reads gzip members one after the other; zeros after a member are padding."""

    name, padding = "gzip", b"\0"

    def _open_frame(self) -> Any:
        return zlib.decompressobj(GZIP_MEMBERS)

    def _needs_input(self) -> bool:
        return not self._input

    def _step(self, most: int) -> bytes:
        data: bytes = self._frame.decompress(self._input, most)
        self._input = self._frame.unconsumed_tail
        return data


class ZstdStream(_FrameStream):
    """Reads zstd frames one after the other."""

    name = "zstd"

    def _open_frame(self) -> Any:
        options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        return zstd.ZstdDecompressor(options=options)

    def _needs_input(self) -> bool:
        # Input that a frame has taken and not used yet is kept by the decompressor.
        return not self._input and bool(self._frame.needs_input)

    def _step(self, most: int) -> bytes:
        data, self._input = self._frame.decompress(self._input, most), b""
        return data
