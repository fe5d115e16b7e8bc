"""Collections in BEIR layout: a folder each, with documents, queries and judgements."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LAYOUT = "corpus.jsonl[.gz], queries.jsonl[.gz], qrels/SPLIT.tsv (BEIR)"
PARTS = ("corpus", "queries")


def path(folder: Path, part: str) -> Path:
    """The file of the documents (`corpus`) or `queries` of a collection, compressed or not."""
    plain = folder / f"{part}.jsonl"
    return plain if plain.exists() else folder / f"{part}.jsonl.gz"


def rows(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    """The rows of the documents (`corpus`) or `queries` of a collection."""
    file = path(folder, part)
    opened = gzip.open if file.suffix == ".gz" else open
    with opened(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def qrels(folder: Path, split: str) -> Path:
    """The file of the judgements of a split."""
    return folder / "qrels" / f"{split}.tsv"


def collections(data: Path) -> list[Path]:
    """All folders directly in `data` that have documents and queries, sorted by name."""
    folders = sorted(each for each in data.glob("*") if each.is_dir())
    return [folder for folder in folders if not missing(folder)]


def missing(folder: Path, split: str = "") -> list[str]:
    """Files that a collection lacks: documents, queries, and the judgements of `split` if given."""
    files = [path(folder, part) for part in PARTS] + ([qrels(folder, split)] if split else [])
    return [str(file).removesuffix(".gz") for file in files if not file.is_file()]
