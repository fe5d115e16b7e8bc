"""How large the job is: rows at every place, and the units they are cut into.

The numbers of units follow the stages' own `tasks` functions from what is known before a run. They
are exact where the sample is whole, but for reranking: there candidates are taken to be spread
evenly over the document shards.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.config.schema import PipelineConfig
from nightrank.datasets.current_corpus import ROWS_PER_TASK
from nightrank.errors import NightrankError
from nightrank.forecast.lines import labels_of, name_of, reads_queries, scales_with
from nightrank.forecast.sampling import Sample
from nightrank.inputs.splits import TARGET_BYTES
from nightrank.retrieval.carried_lists import kept_rows
from nightrank.retrieval.faiss_products import GPU_K
from nightrank.runtime.stage import Quantity
from nightrank.runtime.unit import MAX_UNITS
from nightrank.stages import changes, rerank
from nightrank.storage import buckets, ordinals

# IVF lists of PQ codes, what `auto` takes beyond Flat: d/4 bytes of codes, 8 of a number, and the
# vectors that refine them.
CODE_BYTES, NUMBER_BYTES = 0.25, 8
POSTING_BYTES = 8


@dataclass(frozen=True)
class Side:
    """The corpus or the queries.

    Attributes:
        rows: rows read.
        accepted: rows that pass.
        kept: rows that count.
        distinct: texts.
        size: bytes of the files.
        splits: what is read by one task each.
        files: files or parts of them that are opened.
    """

    rows: int
    accepted: int
    kept: int
    distinct: int
    size: int
    splits: int
    files: int = 0

    @staticmethod
    def of(sample: Sample, wanted: int | None, by_file: bool) -> Side:
        """A sample's input, or one of `wanted` rows of the same kind."""
        s = sample
        whole = Side(s.rows, s.accepted, s.kept, s.distinct, s.size, s.bundles, s.files)
        if wanted is None or wanted == s.kept:
            return whole
        times = wanted / max(1, s.kept)
        size = round(s.size * times)
        splits = max(1, round(s.bundles * times)) if by_file else max(1, -(-size // TARGET_BYTES))
        rows, accepted, distinct = (round(n * times) for n in (s.rows, s.accepted, s.distinct))
        return Side(
            max(rows, wanted), max(accepted, wanted), wanted, distinct, size, splits, splits
        )


@dataclass(frozen=True)
class Step:
    """One rerank step: pairs, predicted tokens of a pair as units are cut by, and its units."""

    name: str
    depth: int
    pairs: int
    unit_tokens: float
    units: int


@dataclass(frozen=True)
class Shape:
    """The job.

    Attributes:
        corpus: documents.
        queries: queries.
        document_shards: shards of documents, a unit each.
        query_shards: shards of distinct queries.
        index_shards: FAISS files.
        index_bytes: of all FAISS files.
        group_bytes: what one search worker holds at most.
        groups: groups of index shards.
        list_rows: rows of a query's partial list of one group.
        flat: whether the index is Flat.
        steps: the rerank steps.
    """

    corpus: Side
    queries: Side
    document_shards: int
    query_shards: int
    index_shards: int
    index_bytes: int
    group_bytes: int
    groups: int
    list_rows: float
    flat: bool
    steps: tuple[Step, ...]

    @property
    def pairs(self) -> int:
        """Pairs of all rerank steps."""
        return sum(step.pairs for step in self.steps)


@dataclass(frozen=True)
class PerDocument:
    """Bytes of one document: its stored vector, its row beside the index, its postings."""

    vector: float
    row: float
    postings: float


def shape_of(
    config: PipelineConfig,
    corpus: Side,
    queries: Side,
    dimension: int,
    each: PerDocument,
    pair_tokens: list[tuple[float, int]],
    list_rows: float,
    searched_by_gpu: bool = False,
) -> Shape:
    """Lays the job out.

    Args:
        config: the experiment.
        corpus: the corpus.
        queries: the queries.
        dimension: of the vectors.
        each: bytes a document, as measured.
        pair_tokens: of every rerank step, mean tokens of query and document, cut at its limit, and
            the tokens that one of its workers does in a minute.
        list_rows: rows of a query's partial list.
        searched_by_gpu: whether FAISS has GPUs, where `auto` is Flat.

    Raises:
        NightrankError: E_CONFIG where a stage would have too many units or shards.
    """
    layout, documents = config.layout, corpus.kept
    rows = ordinals.shard_rows(documents, layout.document_shard_rows)
    shards = max(1, -(-documents // rows))
    if shards > ordinals.MAX_DOCUMENT_SHARDS:
        what = f"{shards} document shards, at most {ordinals.MAX_DOCUMENT_SHARDS} fit an ordinal"
        least = -(-documents // MAX_UNITS)
        do = f"raise layout.document_shard_rows to {least:,} or more"
        raise NightrankError("E_CONFIG", what, "segment", do)
    query_rows = ordinals.shard_rows(queries.accepted, layout.query_shard_rows)
    query_shards = min(buckets.BUCKETS, max(1, -(-queries.accepted // query_rows)))
    index = config.index
    by_gpu = searched_by_gpu and 2 * config.retrieve.depth <= GPU_K
    few = documents <= index.flat_rows or by_gpu
    flat = index.factory == "Flat" or (index.factory == "auto" and few)
    raw = 4 * dimension
    stored = raw if flat else raw + CODE_BYTES * dimension + NUMBER_BYTES
    # As build_index cuts: whole document shards up to so many bytes of vectors.
    together = max(1, int(index.shard_bytes // max(1.0, rows * each.vector)))
    index_shards = -(-shards // together)
    held = stored + each.row + each.vector + each.postings
    shard_held = min(documents, together * rows) * held
    in_group = max(1, int(config.search.memory_bytes // max(1.0, shard_held)))
    groups = -(-index_shards // in_group)
    steps = []
    for step, (tokens, minute) in zip(config.rerank, pair_tokens, strict=True):
        pairs = queries.distinct * min(step.depth, config.retrieve.depth, documents)
        holding = min(shards, max(1, pairs))
        units = _slices(step.unit_tokens, minute, pairs, tokens, holding)
        steps.append(Step(step.name, step.depth, pairs, tokens, units))
        # Every shard is cut into the same whole number of slices.
        slice_tokens = -(-pairs * tokens // (holding * max(1, MAX_UNITS // holding)))
        _refuse(step.name, units, f"rerank.unit_tokens to {slice_tokens:,.0f}")
    shape = Shape(
        corpus,
        queries,
        shards,
        query_shards,
        index_shards,
        round(stored * documents),
        round(min(in_group, index_shards) * shard_held),
        groups,
        list_rows,
        flat,
        tuple(steps),
    )
    planned = units_of(shape)
    _refuse("ingest corpus", planned["ingest corpus"], "the size of the input files")
    least = -(-documents // MAX_UNITS)
    _refuse("segment", shards, f"layout.document_shard_rows to {least:,} or more")
    memory = round(config.search.memory_bytes * planned["search"] / MAX_UNITS)
    _refuse("search", planned["search"], f"search.memory_bytes to {memory:,} or more")
    return shape


def _slices(wanted: int | str, minute: int, pairs: int, tokens: float, holding: int) -> int:
    """The number of units, as `rerank.plan` cuts them."""
    total = pairs * tokens
    unit = wanted if isinstance(wanted, int) else rerank.auto_unit(total, minute)
    return holding * max(1, round(total / holding / unit)) if pairs else 0


def _refuse(stage: str, units: int, raised: str) -> None:
    if units > MAX_UNITS:
        what = f"{units:,} units of {stage} would be planned, at most {MAX_UNITS:,} are sensible"
        raise NightrankError("E_CONFIG", what, stage, f"raise {raised}")


def units_of(shape: Shape) -> dict[str, int]:
    """Units of every stage, by the label that a run reports it by."""
    steps = {step.name: step.units for step in shape.steps}
    return {label: _units(label, shape, steps) for label in labels_of(list(steps))}


def _units(label: str, shape: Shape, steps: dict[str, int]) -> int:
    """Units of one stage: those of its declaration where it cuts its own, else its quantity's."""
    name, queries = name_of(label, steps), reads_queries(label)
    side = shape.queries if queries else shape.corpus
    if name == "delta":
        return len(buckets.runs(side.accepted, ROWS_PER_TASK))
    if name == "build_index":
        return shape.index_shards
    if name == "search":
        return shape.query_shards * shape.groups
    if name == "changes":
        return len(buckets.runs(shape.queries.kept, changes.LISTS_PER_TASK))
    by_quantity: dict[Quantity, int] = {
        "input rows": side.splits,
        "documents": shape.document_shards,
        "texts": shape.query_shards if queries else shape.document_shards,
        "queries": shape.query_shards,
        "lists": shape.query_shards,
        "pairs": steps.get(label, 0),
        "one": 1,
    }
    return by_quantity[scales_with(name)]


def most_list_rows(depth: int, hybrid: bool) -> int:
    """The longest partial list of a query: the rows of both lists where they share none."""
    return kept_rows(depth) * (2 if hybrid else 1)
