"""Real texts for benchmarks of retrieval, cut to passages, with their vectors kept in a folder.

Texts are the documents and queries of collections in BEIR layout if a folder of them is given, else
the docstrings of installed packages, which every machine has. Vectors come from the project's own
encoder and are stored in parts, so that an interrupted run resumes.
"""

from __future__ import annotations

import ast
import hashlib
import os
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import beir
from nightrank.models import registry

WORDS = 32
FEWEST_WORDS = 8
PART = 20_000
# Passages have a minimum of words of letters: tables of figures and base64 have few.
WORD = re.compile(r"[A-Za-z]{2,}")
SKIPPED = {"test", "tests", "testing", "_vendor", "site-packages"}


@dataclass(frozen=True, eq=False)
class Texts:
    """Passages and queries with their vectors, float32[n, 384], of unit length."""

    passages: list[str]
    queries: list[str]
    vectors: np.ndarray
    query_vectors: np.ndarray


def load(cache: Path, data: Path | None, passages: int, queries: int, threads: int) -> Texts:
    """Collects texts and embeds those that the cache does not hold.

    Args:
        cache: folder of vectors, by the digest of their texts.
        data: collections in BEIR layout; None takes docstrings alone.
        passages: how many at most.
        queries: how many; the collections' own, then passages, which `passages` then lacks.
        threads: of the encoder.
    """
    random_order = random.Random(0)
    distinct: set[str] = set()
    for passage in _cut(_documents(data)):
        distinct.add(passage)
        if data is None and len(distinct) == passages + queries:
            break
    cut = sorted(distinct)
    random_order.shuffle(cut)
    asked = _queries(data, random_order)[:queries]
    missing = queries - len(asked)
    asked, cut = asked + cut[:missing], cut[missing:]
    cut = cut[:passages]
    return Texts(cut, asked, _embed(cut, cache, threads), _embed(asked, cache, threads))


def cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def _documents(data: Path | None) -> Iterator[str]:
    for folder in beir.collections(data) if data else []:
        for row in beir.rows(folder, "corpus"):
            yield f"{row.get('title', '')} {row['text']}"
    if data is None:
        yield from _docstrings()


def _queries(data: Path | None, order: random.Random) -> list[str]:
    """Queries, in turns from each collection, so that the largest does not dominate."""
    pools = []
    for folder in beir.collections(data) if data else []:
        pool = sorted({row["text"] for row in beir.rows(folder, "queries")})
        order.shuffle(pool)
        pools.append(pool)
    longest = max(map(len, pools), default=0)
    turns = [pool[i] for i in range(longest) for pool in pools if i < len(pool)]
    return list(dict.fromkeys(turns))


def _docstrings() -> Iterator[str]:
    """Docstrings of the standard library and of the installed packages."""
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    files = sorted(file for place in places for file in Path(place).rglob("*.py"))
    # Reading all takes a minute; a few should come from all packages.
    random.Random(1).shuffle(files)
    for path in files:
        if SKIPPED.intersection(path.parts[-4:-1]) or path.stat().st_size > 1 << 20:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield text


def _cut(texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        words = text.split()
        for begin in range(0, len(words), WORDS):
            passage = " ".join(word[:40] for word in words[begin : begin + WORDS])
            if len(WORD.findall(passage)) >= FEWEST_WORDS:
                yield passage


def _embed(texts: list[str], cache: Path, threads: int) -> np.ndarray:
    """Vectors in bf16, which takes half the time: the search is measured, not the encoder."""
    cache.mkdir(parents=True, exist_ok=True)
    resolved = registry.resolve_bi_encoder("builtin:minilm", precision="bf16")
    parts, encoder, tokenizer = [], None, None
    for begin in range(0, len(texts), PART):
        part = texts[begin : begin + PART]
        path = cache / f"{hashlib.sha256(chr(0).join(part).encode()).hexdigest()[:16]}.npy"
        if not path.exists():
            encoder = encoder or registry.load_bi_encoder(resolved, threads)
            tokenizer = tokenizer or registry.load_tokenizer(resolved)
            vectors = encoder.encode(tokenizer(part), "document")
            partial = path.with_suffix(".partial")
            with partial.open("wb") as file:
                np.save(file, vectors)
            partial.rename(path)
        parts.append(np.load(path))
        print(f"{begin + len(part):,} of {len(texts):,} texts have vectors", file=sys.stderr)
    return np.concatenate(parts)
