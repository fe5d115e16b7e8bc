"""Passes mutated bytes to all readers, in a child process with limited memory.

`python -m benchmarks.torture.fuzz SECONDS [SEED]`. A case is defined by seed and number:
`case(seed, number)` reproduces it. A reader may read the bytes or refuse them with a
NightrankError. Failures are other exceptions, crashes, memory beyond the limit, and altered bytes
that are accepted by a reader whose format has a digest.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nightrank.config.schema import Corpus
from nightrank.config.yaml_text import parse
from nightrank.errors import NightrankError
from nightrank.inputs import qrels
from nightrank.inputs.formats import read_split
from nightrank.inputs.splits import InputFile, Split
from nightrank.inputs.validation import validate
from nightrank.retrieval import faiss_files
from nightrank.retrieval.faiss_library import library
from nightrank.storage.ranges import Ranges
from nightrank.storage.scatter import Scatter, read_range, write_scatter
from nightrank.storage.sealed import seal, unseal

# Arrow, FAISS and numpy reserve 2 GiB of addresses when they are imported.
LIMIT_BYTES = 6 << 30
# Arrow 26 leaks 76 kB, and 1 MB of addresses, for each truncated gzip stream.
CASES_OF_CHILD = 10_000
WORDS = ["river", "bank", "ö", "\U0001f600", "", " ", "\\", '"', ",", "\t", "\n", "x" * 50]
CHUNKS = [b"\0", b"\xff\xff\xff\x7f", b"PAR1", b'"', b"{", b"}", b"\n", b",", b"\xed\xa0\x80"]
CHUNKS += [b"[" * 200, b"\x80" * 9 + b"\x01", b"ilod", b"!!python/name:os.system", b"&a *a", b": "]


@dataclass(frozen=True)
class Target:
    """Something that reads bytes.

    Attributes:
        make: valid bytes, by a random generator.
        read: reads bytes; its result is ignored.
        proves: whether it has to refuse all altered bytes.
    """

    make: Callable[[random.Random], bytes]
    read: Callable[[bytes], object]
    proves: bool = False


def _rows(rng: random.Random) -> list[dict[str, Any]]:
    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))

    return [{"_id": f"d{i}", "text": text(), "n": i} for i in range(rng.randint(1, 9))]


def _jsonl(rng: random.Random) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in _rows(rng))


def _csv(rng: random.Random) -> bytes:
    lines = [
        ",".join('"' + str(v).replace('"', '""') + '"' for v in r.values()) for r in _rows(rng)
    ]
    return "\n".join(["_id,text,n", *lines]).encode()


def _parquet(rng: random.Random) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(_rows(rng) * rng.randint(1, 4))
    pq.write_table(
        table,
        sink,
        row_group_size=rng.randint(1, 20),
        compression=rng.choice(["zstd", "snappy", "none"]),
        use_dictionary=rng.random() < 0.5,
        write_page_checksum=rng.random() < 0.5,
    )
    return sink.getvalue()


def _index(rng: random.Random) -> bytes:
    factories = ["Flat", "IVF4,Flat", "IVF4,PQ4x4fs,RFlat", "PQ4x4", "SQ8", "HNSW8"]
    return _index_of(rng.choice(factories), rng.randrange(9))


@functools.cache
def _index_of(factory: str, seed: int) -> bytes:
    faiss = library()
    index = faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT)
    vectors = np.random.default_rng(seed).random((64, 8), dtype=np.float32)
    with _silent():  # FAISS warns that 64 vectors are few.
        index.train(vectors)
    index.add(vectors)
    sink = io.BytesIO()
    faiss_files.write(index, sink)
    return sink.getvalue()


@contextlib.contextmanager
def _silent() -> Any:
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _input(format: str, compression: str, data: bytes) -> None:
    """Reads and validates a corpus as a run does."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        # Without a digest, as for an S3 object, which is not hashed at planning.
        listed = InputFile(file.name, len(data), "", format, compression)
        source = Corpus(path=file.name, attributes={"n": "int64"}, max_text_bytes=1000)
        split = Split(listed, "whole", 0, len(data))
        for batch in read_split(split, "corpus", source):
            accepted, rejects = validate(batch, "corpus", source)
            accepted.validate(full=True)
            assert accepted.num_rows + rejects.num_rows >= len(batch.rows)


def _sealed(rng: random.Random) -> bytes:
    return seal({"shard": "part-0", "files": _rows(rng)}, readable=rng.random() < 0.5)


def _scattered(rng: random.Random) -> bytes:
    """A scatter file of one range, sealed with its offset table as in a record."""
    table = pa.Table.from_pylist(_rows(rng))
    sink = io.BytesIO()
    ranges = write_scatter(Scatter(table, np.zeros(len(table), np.int64)), sink)
    return seal({"ranges": ranges.to_text(), "data": sink.getvalue().hex()})


def _read_scattered(data: bytes) -> None:
    plain = unseal(data, "record", "")
    read_range(bytes.fromhex(plain["data"]), Ranges.from_text(plain["ranges"])[0], "file")


def _config(rng: random.Random) -> bytes:
    lines = [f"{name}: {rng.choice(['3', '[1, 2]', '{a: b}', 'text', '0.5'])}" for name in "abcde"]
    return "\n".join(lines).encode()


def _qrels(rng: random.Random) -> bytes:
    return b"".join(b"q%d 0 d%d %d\n" % (i, i, rng.randint(0, 3)) for i in range(6))


def _packed(make: Callable[[random.Random], bytes], rng: random.Random) -> bytes:
    return gzip.compress(make(rng), 1)


TARGETS = {
    "parquet": Target(_parquet, functools.partial(_input, "parquet", "")),
    "jsonl": Target(_jsonl, functools.partial(_input, "jsonl", "")),
    "csv": Target(_csv, functools.partial(_input, "csv", "")),
    "jsonl.gz": Target(
        functools.partial(_packed, _jsonl), functools.partial(_input, "jsonl", "gzip")
    ),
    "index": Target(_index, faiss_files.read),
    "record": Target(_sealed, lambda data: unseal(data, "record", ""), proves=True),
    "scatter": Target(_scattered, _read_scattered, proves=True),
    "config": Target(_config, lambda data: parse(data.decode("utf-8", "replace"), "config")),
    "qrels": Target(_qrels, lambda data: qrels.read_qrels(io.BytesIO(data), "qrels")),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes after one to eight mutations."""
    altered = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(altered) + 1)
        what = rng.randrange(6)
        if what == 0:
            del altered[at:]
        elif what == 1 and at < len(altered):
            altered[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            altered[at:at] = rng.choice(CHUNKS)
        elif what == 3:
            altered[at : at + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
        elif what == 4:
            other = rng.randrange(len(altered) + 1)
            altered[at:at] = altered[other : other + rng.randint(1, 64)]
        else:
            del altered[at : at + rng.randint(1, 32)]
    return bytes(altered)


def case(seed: int, number: int) -> tuple[str, bytes, bytes]:
    """A case: its target, the valid bytes and the mutated ones."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(sorted(TARGETS))
    original = TARGETS[name].make(rng)
    return name, original, mutated(original, rng)


def judge(seed: int, number: int) -> tuple[str, str, str]:
    """Runs a case: its target, `read`, `refused` or `failed`, and the failure."""
    name, original, data = case(seed, number)
    try:
        TARGETS[name].read(data)
    except NightrankError as error:
        if error.code != "E_BUG":
            return name, "refused", ""
        return name, "failed", str(error)
    except Exception as error:
        return name, "failed", f"{type(error).__name__}: {error}"
    if TARGETS[name].proves and data != original:
        return name, "failed", "altered bytes were accepted"
    return name, "read", ""


def child(seed: int, first: int, seconds: float, case_file: str) -> None:
    """Runs cases from `first` on and prints the counts; `case_file` holds the current number."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    counts: Counter[str] = Counter()
    failures = []
    number, end = first, time.monotonic() + seconds
    with open(case_file, "wb", buffering=0) as mark:
        while time.monotonic() < end and len(failures) < 20 and number < first + CASES_OF_CHILD:
            os.pwrite(mark.fileno(), b"%020d" % number, 0)
            name, ending, why = judge(seed, number)
            counts[f"{name} {ending}"] += 1
            if ending == "failed":
                failures.append({"seed": seed, "number": number, "target": name, "why": why[:300]})
            number += 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"counts": counts, "failures": failures, "next": number, "peak": peak}))


def run(seconds: float, seed: int) -> dict[str, Any]:
    """Fuzzes for `seconds`.

    Returns:
        `cases`, `counts` by target and ending, `failures` (seed, number, target, why) and
        `peak_bytes`, the peak memory of a child.
    """
    counts: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    peak, number, end = 0, 0, time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="nightrank-") as folder:
        case_file = Path(folder, "case")
        while (left := end - time.monotonic()) > 0 and len(failures) < 20:
            command = [sys.executable, "-m", __spec__.name, "--child", str(seed), str(number)]
            command += [str(min(left, 60.0)), str(case_file)]
            completed = subprocess.run(command, capture_output=True, text=True)
            if completed.returncode == 0:
                plain = json.loads(completed.stdout.splitlines()[-1])
                counts.update(plain["counts"])
                failures += plain["failures"]
                number, peak = plain["next"], max(peak, plain["peak"])
                continue
            number = int(case_file.read_bytes()) if case_file.exists() else number
            why = (
                f"the process ended with {completed.returncode}: {completed.stderr.strip()[-200:]}"
            )
            name = case(seed, number)[0]
            counts[f"{name} failed"] += 1
            failures.append({"seed": seed, "number": number, "target": name, "why": why})
            number += 1
    cases = sum(counts.values())
    return {"cases": cases, "counts": dict(counts), "failures": failures, "peak_bytes": peak}


if __name__ == "__main__":
    if sys.argv[1] == "--child":
        child(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
    else:
        seeds = int(sys.argv[2]) if len(sys.argv) > 2 else 0
        print(json.dumps(run(float(sys.argv[1]), seeds), indent=2))
