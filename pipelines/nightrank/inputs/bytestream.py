"""Input files as streams of bytes: opened, decompressed, limited, and compared with the plan."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import pyarrow as pa

from nightrank.errors import NightrankError
from nightrank.inputs.compressed import decompressed
from nightrank.inputs.listing import store_errors
from nightrank.inputs.raw import BadFile, guard_expansion
from nightrank.inputs.splits import InputFile, changed
from nightrank.storage.filesystem import StorageOptions, connect, is_remote

# Objects are fetched in ranges of this size; the 50 MiB of s3fs would triple a unit's memory.
FETCH_BYTES = 8 << 20
BOM = b"\xef\xbb\xbf"
TextMode: TypeAlias = Literal["bytes", "utf8", "latin1"]


class RawFile(io.RawIOBase):
    """An input file that separates errors of the store from errors of the contents.

    Arrow wraps the errors of a Python file in errors that look like a corrupt file; `failure` holds
    the original one.

    Args:
        file: the file.
        options: of the store.
        ahead: whether to fetch an object ahead of the reads, which are then in its order.
    """

    def __init__(self, file: InputFile, options: StorageOptions | None, ahead: bool = True) -> None:
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
        """The planned size in bytes."""
        return self.file.size

    def read(self, size: int | None = -1) -> bytes:
        """Reads `size` bytes, fewer only at the end: Arrow treats a short read as the end."""
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
        """Compares the bytes read, all of them in order, with the planned sha256 of a local file.

        Raises:
            NightrankError: E_INPUT_CHANGED.
        """
        # Bytes that a decompressor left unread after the end of its stream.
        while self.read(FETCH_BYTES):
            pass
        identity = f"sha256:{self._digest.hexdigest()}"
        if self.file.identity.startswith("sha256:") and identity != self.file.identity:
            raise changed(self.file, self.file.identity, identity)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            self._inner.close()
        super().close()


# Appended to text as a record of one field, where rows have at least two: if the reader does not
# return it as a record, a quote before it was never closed.
END = b"\x1eend of file\x1e\n"


class NotUtf8(Exception):
    """The text is not UTF-8."""


class Decoded(io.RawIOBase):
    """The decompressed bytes of a file; it stops where they are suspiciously many.

    Args:
        raw: the file.
        text: `bytes` returns them unchanged. `utf8` and `latin1` end the last line with a line feed
            and add the line `END`, unless the file is empty. `utf8` checks the encoding; `latin1`
            drops a byte order mark and encodes each byte as the character of its number in UTF-8,
            so that any file becomes valid.
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
        """Reads `size` bytes, fewer only at the end (in `latin1`, at least half as many).

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
        # Arrow treats a short read as the end and does not read again.
        while len(self._rest) < size:
            missing = size - len(self._rest)
            data = self._stream.read(missing)
            short = len(data) < missing
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
    file: InputFile, options: StorageOptions | None, ahead: bool = True
) -> Iterator[RawFile]:
    """Opens a file's bytes; raises different errors for a failing store and for bad contents.

    See `RawFile` for the arguments.

    Raises:
        NightrankError: the store failed, or the file changed.
        BadFile: the contents are bad.
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
    file: InputFile, options: StorageOptions | None, text: TextMode = "bytes"
) -> Iterator[Decoded]:
    """Opens a file's decompressed bytes; see `Decoded` and `open_raw`.

    Raises:
        NightrankError: the store failed, or the file changed.
        BadFile: the contents are bad, or suspiciously large.
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
