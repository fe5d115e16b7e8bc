"""The lines of a stream of bytes, by byte range: for JSONL and TSV."""

from __future__ import annotations

from collections.abc import Iterator

from nightrank.inputs.bytestream import BOM, Decoded
from nightrank.inputs.splits import Split

BLOCK_BYTES = 4 << 20


def owned_lines(stream: Decoded, split: Split, limit: int) -> Iterator[list[bytes | None]]:
    """Lists of the lines that start in the split, without line feeds; None for one over `limit`."""
    position, stop = 0, split.stop
    if split.kind == "whole":
        stop = 1 << 62
    elif split.start:
        # From the byte before: if it is a line feed, a line starts at `start`.
        position = split.start - 1
        stream.raw.seek(position)
        skipping = True
        while skipping:
            block = stream.read(BLOCK_BYTES)
            cut = block.find(b"\n") + 1
            skipping = cut == 0 and bool(block)
            position += cut or len(block)
        stream.raw.seek(position)
    parts: list[bytes] = []  # Of a line that continues in the next block.
    held = 0
    dropped = False
    while position < stop:
        block = stream.read(BLOCK_BYTES)
        cut = block.rfind(b"\n") + 1 if block else 0
        if block and not cut:
            held += len(block)
            dropped = dropped or held > limit
            parts = [] if dropped else [*parts, block]
            continue
        complete = b"".join([*parts, block[:cut]])
        lines: list[bytes | None]
        if dropped:
            # The long line counts as one row; its bytes were dropped, its length is in `held`.
            tail = block.find(b"\n") + 1 if block else 0
            yield [None]
            position += held + (tail if block else 0)
            complete = block[tail:cut]
        if position < stop < position + len(complete):
            complete = complete[: complete.find(b"\n", stop - position - 1) + 1 or None]
        elif position >= stop:
            complete = b""
        if complete:
            lines = list(complete.split(b"\n"))
            if complete.endswith(b"\n"):
                lines.pop()
            if position == 0:
                lines[0] = _without_mark(lines[0])
            yield lines
        position += len(complete)
        if not block:
            return
        parts, held, dropped = ([block[cut:]] if cut < len(block) else []), len(block) - cut, False


def _without_mark(line: bytes | None) -> bytes | None:
    """A file's first line without a byte order mark."""
    return line.removeprefix(BOM) if line else line
