"""Bytes of everything that a run writes, from the miniature's rows and the job's shape."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.forecast.miniature import Miniature
from pipelines.forecast.shape import PerDocument, Shape, rows_each, units_of

# What an operator calls a file of a stage; all else is `bookkeeping`: ids, rejects, deltas, bounds.
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
    ("merge", "pool"): "standing lists",
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
# record stands in its own file and in the manifest.
RECORD_BYTES, FILE_BYTES, RANGE_BYTES = 330, 240, 45
# Heaps' law, as usual for English text: words grow with the square root of the documents.
WORDS_EXPONENT = 0.5


@dataclass(frozen=True)
class RowBytes:
    """Bytes of a row where a toy model's do not count.

    Attributes:
        document_tokens: of a document, by all tokenizers.
        query_tokens: of a query, by all tokenizers.
        vector: of an embedding.
        tokenizers: number of them.
    """

    document_tokens: float
    query_tokens: float
    vector: float
    tokenizers: int


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
    found = {}
    for stage, made in small.stages.items():
        times = rows.tokenizers if stage.startswith("tokenize") else 1
        count = units.get(stage, made.units) * times
        sizes, keys = {}, 0
        for name, file in made.files.items():
            held, of_file = counted.get((stage, name), (0, 0))
            each = replaced.get((stage, name), file.row_bytes)
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
            sizes[name] = round(size)
            keys += of_file if file.keys else 0
        found[stage] = Written(sizes, count * len(sizes), keys)
    return found


def artifacts(shape: Shape, made: dict[str, Written]) -> dict[str, int]:
    """Bytes by what operators call it, the largest first."""
    steps = {step.name for step in shape.steps}
    steps |= {"merge", "rank", *(f"rank {step.name}" for step in shape.steps)}
    units = units_of(shape)
    sizes: dict[str, int] = {}
    records = 0
    for stage, what in made.items():
        for file, size in what.files.items():
            name = NAMES.get((stage, file))
            if name is None and stage in steps:
                name = OF_STEPS.get(file)
            name = name or BOOKKEEPING
            sizes[name] = sizes.get(name, 0) + size
        count = units.get(stage, 1)
        records += 2 * (RECORD_BYTES * count + FILE_BYTES * what.count + RANGE_BYTES * what.keys)
    sizes[RECORDS] = records
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
