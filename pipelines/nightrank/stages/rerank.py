"""Scores pairs with the cross-encoder, where the documents live.

In: candidates of one document shard, tokens of its documents and of the queries, scores that
earlier runs computed with the same model. Out: `scores`, scattered by query shard, and `store`,
the scores that were computed now, as later runs look them up. Cardinality: slices of a document
shard by predicted tokens. Knows nothing about: lists, ranks, the first stage.

Ids travel, text stays: every document shard is read once, in order, already tokenised. A pair is
scored once: a query's text, a row of an immutable segment and a model's fingerprint fix its score.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from nightrank.datasets import cut_inputs
from nightrank.models.protocols import CrossEncoder, Precision, ResolvedModel
from nightrank.models.registry import load_cross_encoder
from nightrank.models.stored import on_this_node
from nightrank.models.text.batching import SPENT
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import ordinals, pair_scores, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record
from nightrank.storage.gather import Gathered, gather
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.tokens import Tokens

# A unit is about a minute of a core or a GPU, so that little is lost when one is. On small jobs
# units are smaller, down to 7 s: at the end of a stage all workers but one wait for the last unit,
# of 30,000 pairs on two cores for 5 % of the time. A unit costs some 0.05 s beside the model.
LEAST_OF_A_MINUTE, SMALL_JOB_UNITS = 0.12, 64
# On large jobs units grow instead: planning and records stay small.
AUTO_UNITS = 8_192

# Queries that are scored in fp32 too, to measure what a lower precision changes: every 200th, which
# costs some 1 % of the time (fp32 takes twice as long), and at most what measures it to a percent.
CHECKED_SHARE, CHECKED_LEAST, CHECKED_MOST = 200, 2, 64
# A document shard whose pairs are mostly known is cut as if a tenth of them were to be scored.
UNSEEN_SHARE = 0.1


@dataclass(frozen=True)
class Inputs:
    """What one rerank step scores.

    Attributes:
        scattered: candidates by document shard.
        queries: distinct queries, for their text hashes.
        query_tokens: their tokens.
        document_tokens: of every segment, by its number.
        model: the cross-encoder.
        unit_tokens: predicted tokens of a unit, or `auto`.
        stores: earlier datasets of this stage with the same model, oldest first.
        origins: of compacted segments, by number: the manifest that says where each document was.
        keep_all: whether `store` repeats what was looked up, so that earlier stores can go.
        ranks: only candidates above the first and up to the second of these ranks.
        head: how deep the lists are scored in all.
        checked: of the first query shard, how many queries are scored in fp32 too.
    """

    scattered: Manifest
    queries: Manifest
    query_tokens: Manifest
    document_tokens: dict[int, Manifest]
    model: ResolvedModel
    unit_tokens: int | str
    stores: tuple[Manifest, ...] = ()
    origins: dict[int, Manifest] = outside_identity(default_factory=dict)
    keep_all: bool = False
    ranks: tuple[int, int] = (0, 1 << 30)
    head: int = 1 << 30
    checked: int = 0

    @property
    def share(self) -> float:
        """The share of all pairs that these ranks are, about."""
        low, high = self.ranks
        return (min(high, self.head) - low) / self.head

    def shard(self, key: int) -> Record:
        """The tokens of a scatter key's document shard."""
        segment, shard = ordinals.split_key(key)
        return self.document_tokens[segment].shards[shard]

    def known(self) -> dict[int, list[FileRef]]:
        """Store files by scatter key."""
        files: dict[int, list[FileRef]] = {}
        for store in self.stores:
            for record in store.shards:
                if record.files["store"].rows:
                    files.setdefault(record.stats["key"], []).append(record.files["store"])
        return files

    def sources(self, key: int) -> tuple[FileRef | None, list[int]]:
        """A compacted shard's `origin` and the keys its documents had; none for other shards."""
        segment, shard = ordinals.split_key(key)
        if segment not in self.origins:
            return None, []
        record = self.origins[segment].shards[shard]
        return record.files["origin"], record.stats["keys"]


def to_check(queries: Manifest, model: ResolvedModel, stores: tuple[Manifest, ...]) -> int:
    """How many queries of the first shard are scored in fp32 too.

    They are sorted by the hash of their text, so the first are a sample. Where earlier runs have
    scores of this model, it has been measured, and most pairs are not scored at all.
    """
    if model.precision == "fp32" or stores or not queries.shards:
        return 0
    share = min(CHECKED_MOST, max(CHECKED_LEAST, queries.rows("queries") // CHECKED_SHARE))
    return min(share, queries.shards[0].files["queries"].rows)


def auto_unit(total: float, minute: int) -> float:
    """Tokens of a unit of `total`, where a worker puts `minute` of them through in a minute."""
    unit = min(minute, max(LEAST_OF_A_MINUTE * minute, total / SMALL_JOB_UNITS))
    return max(unit, total / AUTO_UNITS)


@dataclass(frozen=True)
class Settings:
    """See `Inputs`."""

    model: ResolvedModel
    keep_all: bool
    checked: int


@dataclass(frozen=True)
class Shard:
    """What all slices of a document shard share.

    Attributes:
        key: its scatter key.
        pairs: ranges of pairs, by query shard.
        tokens: of its documents.
        queries: tokens and text hashes of the query shards, by number.
        stores: known scores by the key that they were stored under.
        origin: where its documents were before segments were merged; None in other segments.
        ranks: see `Inputs`.
    """

    key: int
    pairs: Gathered
    tokens: FileRef
    queries: dict[int, tuple[FileRef, FileRef]]
    stores: dict[int, list[FileRef]]
    origin: FileRef | None
    ranks: tuple[int, int]


@dataclass(frozen=True)
class Args:
    """The document rows start to stop - 1 of a shard; `Task.shared` is the `Shard`."""

    start: int
    stop: int


def tasks(inputs: Inputs) -> list[Task[Args]]:
    """Slices every document shard that has candidates into units of even predicted cost."""
    query_tokens, known, model = inputs.query_tokens, inputs.known(), inputs.model
    query_mean = query_tokens.total("tokens") / max(1, query_tokens.rows("tokens"))
    tokens_of, texts_of = query_tokens.files("tokens"), inputs.queries.files("queries")
    shards: dict[int, Shard] = {}
    cost: dict[int, float] = {}
    for key, pairs in gather(inputs.scattered.files("scatter")).items():
        record = inputs.shard(key)
        tokens = record.files["tokens"]
        mean = query_mean + record.stats["tokens"] / max(1, tokens.rows)
        cost[key] = pairs.rows * min(model.max_length_tokens, mean) * inputs.share
        origin, keys = inputs.sources(key)
        stores = {k: known[k] for k in (key, *keys) if k in known}
        if stores:
            cost[key] *= UNSEEN_SHARE
        queries = {n: (tokens_of[n], texts_of[n]) for n in pairs.files}
        shards[key] = Shard(key, pairs, tokens, queries, stores, origin, inputs.ranks)
    unit = auto_unit(sum(cost.values()), model.minute_tokens)
    if isinstance(inputs.unit_tokens, int):
        unit = inputs.unit_tokens
    units = []
    for key, shard in shards.items():
        rows = shard.tokens.rows
        slices = min(max(1, rows), max(1, round(cost[key] / unit)))
        segment = ordinals.split_key(key)[0]
        for i in range(slices):
            name = f"{inputs.shard(key).shard}.seg-{segment:05d}.slice-{i:04d}"
            args = Args(rows * i // slices, rows * (i + 1) // slices)
            units.append(Task(name, args, shared=shard))
    return units


class Worker:
    """Holds the cross-encoder, and the queries it has read."""

    def __init__(self, settings: Settings, threads: int) -> None:
        self._settings, self._threads = settings, threads
        self._model = settings.model
        self._models: dict[Precision, CrossEncoder] = {}
        self._queries: dict[str, tuple[Tokens, np.ndarray]] = {}

    def _opened(self, read: Reader, precision: Precision) -> CrossEncoder:
        """Loaded at the first pair without a known score.

        In fp32 too, where the declared precision is measured against that.
        """
        if precision not in self._models:
            model = replace(self._model, precision=precision)
            self._models[precision] = load_cross_encoder(on_this_node(model, read), self._threads)
        return self._models[precision]

    def __call__(self, task: Task[Args], read: Reader) -> Payload:
        """Scores the pairs whose document falls into the slice.

        NaN scores travel as they are, those of pairs that killed their worker as null.
        """
        shard: Shard = task.shared
        shards, queries, rows = _pairs(shard, task.args, read)
        used, query_index = np.unique(shards << 32 | queries, return_inverse=True)
        query_tokens, hashes = self._used_queries(used, shard.queries, read)
        scores = pair_scores.look_up(
            shard.stores, shard.key, shard.origin, hashes, query_index, rows, read
        )
        unknown = np.isnan(scores)
        # What kills a process is a text: all pairs of a document are left out together.
        asked = np.unique(rows[unknown])
        inside = np.isin(rows, asked[task.chosen(len(asked))])
        unseen, crashed = np.flatnonzero(unknown & inside), unknown & ~inside
        documents, document_index = np.unique(rows[unseen], return_inverse=True)
        tokens = Tokens.from_arrow(read.table(shard.tokens)["tokens"]).take(documents)
        pairs = np.stack([query_index[unseen], document_index], axis=1).astype(np.int32)
        model_seconds, cut = 0.0, SPENT.cut
        if len(unseen):
            model = self._opened(read, self._model.precision)
            begin = time.perf_counter()
            scores[unseen] = model.score(query_tokens, tokens, pairs)
            model_seconds = time.perf_counter() - begin
        cut = SPENT.cut - cut
        places = (np.int64(shard.key) << ordinals.ROW_BITS) | rows
        column = pa.array(scores, pa.float32(), mask=crashed)
        columns = [pa.array(queries, pa.int32()), pa.array(places), column]
        content = Scatter(pa.table(columns, schema=schemas.SCORES), shards)
        lengths = query_tokens.lengths[query_index[unseen]] + tokens.lengths[document_index]
        stats = {
            "key": shard.key,
            "rate_rows": len(rows),
            "rate_unit": "pairs",
            "pairs": len(rows),
            "pairs_scored": len(unseen),
            cut_inputs.STAT: cut,
            "model_seconds": round(model_seconds, 3),
            "tokens": int(lengths.sum()),
            "nonfinite": int((~np.isfinite(scores)).sum()),
            "set_aside": int(crashed.sum()),
        }
        checked = (shards == 0) & (queries < self._settings.checked)
        if checked.any():
            # None of these pairs was known before: `pairs` are all that are scored, in order.
            exact = np.zeros(len(rows), np.float32)
            again = checked & ~crashed
            if again.any():
                model = self._opened(read, "fp32")
                exact[again] = model.score(query_tokens, tokens, pairs[again[unseen]])
            shown = pa.array(exact, pa.float32(), mask=crashed).filter(pa.array(checked))
            stats["exact"] = [
                queries[checked].tolist(),
                places[checked].tolist(),
                shown.to_pylist(),
            ]
        kept = np.arange(len(rows)) if self._settings.keep_all else unseen
        store = pair_scores.to_table(hashes[query_index[kept]], rows[kept], scores[kept])
        return Payload({"scores": content, "store": store}, stats, inputs=len(asked))

    def _used_queries(
        self, used: np.ndarray, refs: dict[int, tuple[FileRef, FileRef]], read: Reader
    ) -> tuple[Tokens, np.ndarray]:
        """Tokens and text hashes of the used queries (shard << 32 | row, ascending)."""
        parts = [pa.array([], schemas.TOKENS.field("tokens").type)]
        hashes = [np.zeros(0, pair_scores.HASH)]
        for number, (tokens_ref, texts_ref) in sorted(refs.items()):
            if tokens_ref.sha256 not in self._queries:
                self._queries[tokens_ref.sha256] = (
                    Tokens.from_arrow(read.table(tokens_ref)["tokens"]),
                    pair_scores.to_hashes(read.table(texts_ref, ["query_hash"])["query_hash"]),
                )
            tokens, texts = self._queries[tokens_ref.sha256]
            mine = used[used >> 32 == number] & 0xFFFFFFFF
            parts.append(tokens.take(mine).to_arrow())
            hashes.append(texts[mine])
        return Tokens.from_arrow(pa.concat_arrays(parts)), np.concatenate(hashes)


def _pairs(shard: Shard, args: Args, read: Reader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query shard, query row (int64) and document row (int64) of every pair in the slice."""
    parts: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(3)]
    low, high = shard.ranks
    for number, ref, part in shard.pairs:
        table = read.range(ref, part)
        rows, rank = table["row"].to_numpy().astype(np.int64), table["rank"].to_numpy()
        inside = (rows >= args.start) & (rows < args.stop) & (rank > low) & (rank <= high)
        queries = table["query"].to_numpy().astype(np.int64)[inside]
        parts[0].append(np.full(len(queries), number, np.int64))
        parts[1].append(queries)
        parts[2].append(rows[inside])
    shards, queries, rows = (np.concatenate(arrays) for arrays in parts)
    return shards, queries, rows


STAGE = Declaration(
    name="rerank",
    version=3,
    pool="model",
    scales_with="pairs",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: Settings(inputs.model, inputs.keep_all, inputs.checked),
    schemas=lambda inputs: {"scores": schemas.SCORES, "store": schemas.STORE},
    divisible=True,
)
