"""Bytes of everything that a run writes, from the miniature's rows and the job's shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nightrank.forecast.miniature import File, Miniature, is_score
from nightrank.forecast.rows import distinct_keys, rows_each
from nightrank.forecast.shape import PerDocument, Shape, units_of

# What a file of a stage is reported as; all else is `bookkeeping`: ids, rejects, deltas, bounds.
NAMES = {
    ("extract", "rows"): "extracted rows",
    ("segment", "documents"): "documents",
    ("tokenize documents", "tokens"): "tokens",
    ("tokenize queries", "tokens"): "tokens",
    ("terms of documents", "tokens"): "terms",
    ("terms of queries", "tokens"): "terms",
    ("embed documents", "vectors"): "embeddings",
    ("embed queries", "vectors"): "embeddings",
    ("build index", "index"): "index",
    ("build index", "rows"): "index rows",
    ("build index", "postings"): "postings",
    ("search", "candidates"): "partial lists",
    ("merge", "pool"): "first-stage lists",
    ("merge", "candidates"): "candidates",
    ("rank", "pool"): "full lists",
    ("rank", "ranked"): "ranked",
    ("rank", "queries"): "ranked",
    ("rank", "lists"): "kept lists",
    ("changes", "changes"): "changes",
}
OF_STEPS = {"scatter": "scatter", "scores": "scores", "store": "score stores", "pool": "full lists"}
BOOKKEEPING, RECORDS = "bookkeeping", "records"
# Measured on records of this version: of a unit, of each of its files, of each scatter key; each
# record is in its own file and in the manifest.
RECORD_BYTES, FILE_BYTES, RANGE_BYTES = 330, 240, 45
# Heaps' law, as usual for English text: words grow with the square root of the documents.
WORDS_EXPONENT = 0.5
# A float32 score of a real model after zstd: its exponent repeats, its fraction does not.
SCORE_BYTES, HASH_BYTES = 3.6, 16
PLACES = ("ordinal", "doc_id")


@dataclass(frozen=True)
class RowBytes:
    """Bytes of a row where a toy model's do not count.

    Attributes:
        document_tokens: of a document, by all tokenizers.
        query_tokens: of a query, by all tokenizers.
        vector: of an embedding.
        tokenizers: number of them.
        real: whether models are real ones: their scores do not compress as a toy's do.
    """

    document_tokens: float
    query_tokens: float
    vector: float
    tokenizers: int
    real: bool


@dataclass(frozen=True)
class Written:
    """What a stage writes: bytes of all files, their number, and scatter keys."""

    files: dict[str, int]
    count: int
    keys: int

    @property
    def size(self) -> int:
        """Bytes of its data files."""
        return sum(self.files.values())


def per_document(small: Miniature, rows: RowBytes, posting_bytes: int) -> PerDocument:
    """Bytes of a document beside its vector, as a search group counts them."""
    built = small.stages["build index"]
    postings = posting_bytes * built.stats.get("postings", 0) / max(1, small.documents)
    return PerDocument(rows.vector, built.files["rows"].row_bytes, postings)


def written(
    shape: Shape, small: Miniature, rows: RowBytes, depth: int, keep: int
) -> dict[str, Written]:
    """What every stage writes, in the order of the run.

    Args:
        shape: the job.
        small: the miniature.
        rows: bytes that it does not know.
        depth: `retrieve.depth`.
        keep: `results.keep`.
    """
    counted, units = rows_each(shape, depth, keep), units_of(shape)
    replaced = {
        ("tokenize documents", "tokens"): rows.document_tokens / rows.tokenizers,
        ("tokenize queries", "tokens"): rows.query_tokens / rows.tokenizers,
        ("embed documents", "vectors"): rows.vector,
        ("embed queries", "vectors"): rows.vector,
    }
    written_by = {}
    for stage, measured in small.stages.items():
        times = rows.tokenizers if stage.startswith("tokenize") else 1
        count = units.get(stage, measured.units) * times
        sizes, keys = {}, 0
        for name, file in measured.files.items():
            held, of_file = counted.get((stage, name), (0, 0))
            nested = keep if "list" in file.columns else 1
            each = file.row_bytes + _more(file, shape, small, rows.real) * nested
            each = replaced.get((stage, name), each)
            size = each * held * times + file.fixed * (of_file if file.keys else count)
            if (stage, name) == ("build index", "index"):
                size = shape.index_bytes
            elif name == "postings":
                size = file.fixed * count + (file.size - file.fixed) * (
                    shape.corpus.kept / max(1, small.documents)
                )
            elif name == "statistics":
                grown = (shape.corpus.kept / max(1, small.documents)) ** WORDS_EXPONENT
                size = file.fixed + (file.size - file.fixed) * grown
            elif name == "template":
                size = file.size
            elif name == "store" and held:
                size = _store(
                    file, measured.units, small.queries, shape.queries.distinct, count, held
                )
            sizes[name] = round(size)
            keys += of_file if file.keys else 0
        written_by[stage] = Written(sizes, count * len(sizes), keys)
    return written_by


def _more(file: File, shape: Shape, small: Miniature, real: bool) -> float:
    """Bytes of a row more than in the miniature: longer numbers of documents, real scores."""
    grown = math.log2(max(1.0, shape.corpus.kept / max(1, small.documents))) / 8
    more = grown * sum(name in PLACES for name in file.columns)
    if "list" in file.columns:
        more += grown
    if not real or not file.rows:
        return more
    scores = sum(is_score(name) for name in file.columns) + ("list" in file.columns)
    # Of scatter files columns cannot be distinguished: there a toy's scores count as nothing.
    return more + max(0.0, SCORE_BYTES * scores - file.scores)


def _store(file: File, units: int, few: int, queries: int, count: int, rows: int) -> float:
    """Stored scores: a unit's file holds each query's hash once, as far as zstd goes."""
    before = units * distinct_keys(file.rows / max(1, units), few)
    after = count * distinct_keys(rows / max(1, count), queries)
    plain = max(4.0, (file.size - file.fixed * units - HASH_BYTES * before) / max(1, file.rows))
    return file.fixed * count + HASH_BYTES * after + plain * rows


def artifacts(shape: Shape, every: dict[str, Written]) -> dict[str, int]:
    """Bytes by reported name, the largest first."""
    steps = {step.name for step in shape.steps}
    steps |= {"merge", "rank", *(f"rank {step.name}" for step in shape.steps)}
    units = units_of(shape)
    sizes: dict[str, int] = {}
    records = 0
    for stage, files in every.items():
        for file, size in files.files.items():
            name = NAMES.get((stage, file))
            if name is None and stage in steps:
                name = OF_STEPS.get(file)
            name = name or BOOKKEEPING
            sizes[name] = sizes.get(name, 0) + size
        count = units.get(stage, 1)
        records += 2 * (RECORD_BYTES * count + FILE_BYTES * files.count + RANGE_BYTES * files.keys)
    sizes[RECORDS] = records
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
