"""gzip and zstd files as other programs write, join, pad and damage them."""

from __future__ import annotations

import gzip
import io
import random
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from nightrank.errors import NightrankError
from nightrank.inputs import compressed
from nightrank.inputs.compressed import GzipStream, ZstdStream
from tests.support.input_files import packed, read

A, B = b'{"_id": "a", "text": "river"}\n', b'{"_id": "b", "text": "bank"}\n'
TSV = b"_id\ttext\na\triver\n"
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0PRIV"


def long_window(data: bytes, log: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=log, enable_ldm=True)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return writer.compress(data) + writer.flush()


def flipped(data: bytes) -> bytes:
    """The data with the head of its first block damaged."""
    return data[:8] + b"\xff\xff" + data[10:]


@pytest.mark.parametrize(
    ("suffix", "data", "ids"),
    [
        ("gz", gzip.compress(A) + b"\0" * 512, "a"),
        ("gz", gzip.compress(A) + gzip.compress(B), "ab"),
        ("gz", gzip.compress(A) + b"\0" * 7 + gzip.compress(B) + b"\0", "ab"),
        ("gz", gzip.compress(b"") + gzip.compress(A[:9]) + gzip.compress(A[9:]), "a"),
        ("gz", gzip.compress(A) + b"\0" * (3 << 20), "a"),
        ("zst", packed(A, "zst") + packed(B, "zst"), "ab"),
        ("zst", SKIPPABLE + packed(A, "zst") + SKIPPABLE, "a"),
        ("zst", long_window(A, 27) + packed(B, "zst"), "ab"),
        ("zst", packed(A, "zst") + long_window(B, 31), "ab"),
    ],
    # Without the bytes: gzip's hold the time, and differ between the processes that run tests.
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_joined_and_padded_files_are_read_whole(
    tmp_path: Path, suffix: str, data: bytes, ids: str
) -> None:
    (tmp_path / f"c.jsonl.{suffix}").write_bytes(data)
    accepted, rejects = read(tmp_path / f"c.jsonl.{suffix}")
    assert "".join(row["doc_id"] for row in accepted) == ids and not rejects


@pytest.mark.parametrize("form", ["jsonl", "tsv", "csv"])
@pytest.mark.parametrize(
    ("suffix", "damage", "words"),
    [
        ("gz", lambda data: gzip.compress(data) + b"PRIVATE", "not gzip follows.*compress it"),
        ("gz", lambda data: gzip.compress(data) + b"P", "not gzip follows"),
        ("gz", lambda data: data, "is not gzip, as its name says"),
        ("gz", lambda data: b"\0" * 99, "is not gzip"),
        ("gz", lambda data: gzip.compress(data)[:-9], "ends in the middle"),
        ("gz", lambda data: gzip.compress(data)[:-8] + b"\0" * 8, "damaged gzip.*copy the file"),
        ("gz", lambda data: gzip.compress(data)[:5], "ends in the middle"),
        ("zst", lambda data: packed(data, "zst") + b"PRIVATE", "not zstd follows"),
        ("zst", lambda data: packed(data, "zst") + b"\0" * 512, "not zstd follows"),
        ("zst", lambda data: data, "is not zstd, as its name says"),
        ("zst", lambda data: packed(data, "zst")[:-3], "ends in the middle"),
        ("zst", lambda data: long_window(data, 31)[:-3], "ends in the middle"),
        ("zst", lambda data: flipped(long_window(data, 31)), "damaged zstd.*copy the file"),
    ],
)  # fmt: skip
def test_damaged_files_say_what_is_wrong(
    tmp_path: Path, form: str, suffix: str, damage, words: str
) -> None:
    data = {"jsonl": A * 50, "tsv": TSV * 50, "csv": TSV.replace(b"\t", b",") * 50}[form]
    path = tmp_path / f"c.{form}.{suffix}"
    path.write_bytes(damage(data))
    with pytest.raises(NightrankError, match=f"E_SCHEMA.*{words}") as caught:
        read(path)
    assert "PRIV" not in str(caught.value) and "\n" not in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.binary(max_size=200), max_size=5),
    st.integers(0, 9),
    st.integers(1, 50),
    st.integers(1, 100),
)
def test_gzip_of_any_members_and_chunks(
    members: list[bytes], zeros: int, chunk: int, size: int
) -> None:
    data = b"".join(gzip.compress(member) + b"\0" * zeros for member in members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "CHUNK_BYTES", chunk)
        stream = GzipStream(io.BytesIO(data))
        parts = list(iter(lambda: stream.read(size), b""))
    assert b"".join(parts) == b"".join(members)
    assert all(len(part) == size for part in parts[:-1])


def test_a_bomb_of_gzip_is_given_piece_by_piece() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = packer.compress(b"\0" * (64 << 20)) + packer.flush()
    assert len(GzipStream(io.BytesIO(data)).read(1000)) == 1000


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_bomb_of_zstd_is_given_piece_by_piece(size: int) -> None:
    data = zstandard.compress(b"\0" * (64 << 20), 19)
    stream = ZstdStream(io.BytesIO(data))
    assert [len(stream.read(size)) for _ in range(9)] == [size] * 9


def test_a_match_is_found_across_a_long_window() -> None:
    # The repetition lies 130 MiB back, more than the 2**27 bytes that most readers keep.
    block = random.Random(0).randbytes(64 << 10)
    data = block + b"\0" * (130 << 20) + block
    frame = long_window(data, 28)
    assert len(frame) < 2 * len(block)
    stream = ZstdStream(io.BytesIO(frame))
    assert b"".join(iter(lambda: stream.read(4 << 20), b"")) == data
