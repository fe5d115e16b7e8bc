"""Input files as streams of bytes: opened, decompressed, bounded and compared with the plan."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from nightrank.errors import NightrankError
from nightrank.inputs.compressed import decompressed
from nightrank.inputs.listing import store_errors
from nightrank.inputs.raw import BadFile, guard_expansion
from nightrank.inputs.splits import InputFile, changed
from nightrank.storage.filesystem import connect, is_remote

# Objects are fetched ahead in ranges of this size; s3fs' own 50 MiB would triple a task's memory.
FETCH_BYTES = 8 << 20
BOM = b"\xef\xbb\xbf"
TextMode: TypeAlias = Literal["bytes", "utf8", "latin1"]


class RawFile(io.RawIOBase):
    """A file of the user's, whose store's errors are told apart from its contents'.

    Arrow wraps what a Python file raises in errors that look like a corrupt file; `failure` keeps
    the true one.

    Args:
        file: the file.
        options: fsspec storage options.
        ahead: whether an object is fetched ahead of what is read, in its order.
    """

    def __init__(self, file: InputFile, options: dict[str, Any] | None, ahead: bool = True) -> None:
        super().__init__()
        filesystem, place = connect(file.url, options)
        self.file = file
        self.failure: NightrankError | None = None
        with store_errors(file.url, "E_INPUT_CHANGED"):
            cache = {} if ahead or not is_remote(file.url) else {"cache_type": "none"}
            self._inner = filesystem.open(place, "rb", block_size=FETCH_BYTES, **cache)
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Moves to a byte."""
        return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        """The position in bytes."""
        return int(self._inner.tell())

    def size(self) -> int:
        """Bytes, as planned."""
        return self.file.size

    def read(self, size: int | None = -1) -> bytes:
        """Reads `size` bytes, fewer only at the end: Arrow takes a short read for the end."""
        parts = []
        left = self.file.size if size is None or size < 0 else size
        while left > 0:
            try:
                with store_errors(self.file.url, "E_INPUT_CHANGED"):
                    part = self._inner.read(left)
            except NightrankError as error:
                self.failure = error
                raise
            if not part:
                break
            parts.append(part)
            left -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._digest.update(data)
        return data

    def check_digest(self) -> None:
        """Compares what was read, from first to last byte in order, with a local file's sha256.

        Raises:
            NightrankError: E_INPUT_CHANGED.
        """
        # What a decompressor left unread behind the end of its stream.
        while self.read(FETCH_BYTES):
            pass
        found = f"sha256:{self._digest.hexdigest()}"
        if self.file.identity.startswith("sha256:") and found != self.file.identity:
            raise changed(self.file, self.file.identity, found)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._inner.close()
        super().close()


# A record of one field, in files that have two columns at least: where it is not met as such, a
# quote before it was never closed.
END = b"\x1eend of file\x1e\n"


class NotUtf8(Exception):
    """Text that was to be UTF-8 is not."""


class Decoded(io.RawIOBase):
    """The decompressed bytes of a file, stopped where they grow suspiciously many.

    Args:
        raw: the file.
        text: `bytes` gives them as they are. `utf8` and `latin1` end the last line with a line
            feed and add the line `END`, unless the file is empty. `utf8` checks the encoding;
            `latin1` drops a byte order mark and gives each byte as the character of its number in
            UTF-8, so that any file becomes valid.
    """

    def __init__(self, raw: RawFile, text: TextMode = "bytes") -> None:
        super().__init__()
        self.raw, self._text = raw, text
        self._last, self._rest, self._ended = b"\n", b"", text == "bytes"
        self._check = codecs.getincrementaldecoder("utf-8")()
        self._stream = decompressed(raw, raw.file.compression)
        self.decoded = 0
        self.failure: BadFile | NotUtf8 | None = None

    def readable(self) -> bool:
        """Always."""
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Reads `size` bytes, fewer only at the end (in `latin1`, half as many and more).

        Raises:
            BadFile: `suspicious_expansion`.
            NotUtf8: under `utf8`.
        """
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(FETCH_BYTES), b""))
        if self._text == "latin1":
            size = max(1, size // 2)
        try:
            data = self._read(size)
            if self._text == "utf8":
                self._check.decode(data, final=len(data) < size)
        except UnicodeDecodeError:
            self.failure = NotUtf8()
            raise self.failure from None
        except BadFile as error:
            self.failure = error
            raise
        return data.decode("latin-1").encode() if self._text == "latin1" else data

    def _read(self, size: int) -> bytes:
        # Arrow takes a short read for the end and never asks again.
        while len(self._rest) < size:
            wanted = size - len(self._rest)
            data = self._stream.read(wanted)
            short = len(data) < wanted
            if self._text == "latin1" and not self.decoded and data.startswith(BOM):
                self.decoded, data = len(BOM), data[len(BOM) :]
            self.decoded += len(data)
            guard_expansion(self.decoded, self.raw.file.size)
            self._last = data[-1:] or self._last
            self._rest += data
            if short and not self._ended and self.decoded:
                self._rest += (b"" if self._last == b"\n" else b"\n") + END
            self._ended |= short
            if short:
                break
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


@contextmanager
def open_raw(
    file: InputFile, options: dict[str, Any] | None, ahead: bool = True
) -> Iterator[RawFile]:
    """Opens a file's bytes as they are; tells a store's failure and a corrupt file apart.

    See `RawFile` for the arguments.

    Raises:
        NightrankError: the store failed, or the file changed.
        BadFile: the contents are at fault.
    """
    raw = RawFile(file, options, ahead)
    try:
        yield raw
    except (pa.ArrowException, OSError, UnicodeError, RecursionError) as error:
        if raw.failure is not None:
            raise raw.failure from None
        first = (str(error).splitlines() or [""])[0]
        raise BadFile("unreadable_file", f"{type(error).__name__}: {first}") from None
    finally:
        raw.close()


@contextmanager
def open_decoded(
    file: InputFile, options: dict[str, Any] | None, text: TextMode = "bytes"
) -> Iterator[Decoded]:
    """Opens a file's decompressed bytes; see `Decoded` and `open_raw`.

    Raises:
        NightrankError: the store failed, or the file changed.
        BadFile: the contents are at fault, or suspiciously many.
        NotUtf8: under `utf8`.
    """
    with open_raw(file, options) as raw:
        stream = Decoded(raw, text)
        try:
            yield stream
        except (pa.ArrowException, OSError):
            if stream.failure is not None:
                raise stream.failure from None
            raise
