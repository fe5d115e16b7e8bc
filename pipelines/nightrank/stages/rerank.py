"""Scores pairs with the cross-encoder, where the documents live.

In: candidates of one document shard, tokens of its documents and of the queries, scores that
earlier nights computed with the same model. Out: `scores`, scattered by query shard, and `store`,
the scores that were computed now, as later nights look them up. Cardinality: slices of a document
shard by predicted tokens. Knows nothing about: lists, ranks, the first stage.

Ids travel, text stays: every document shard is read once, in order, already tokenised. A pair is
scored once: a query's text, a row of an immutable segment and a model's fingerprint fix its score.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from nightrank.datasets import cut_inputs
from nightrank.models.protocols import CrossEncoder, Precision, ResolvedModel
from nightrank.models.registry import load_cross_encoder
from nightrank.models.stored import on_this_node
from nightrank.models.text.batching import SPENT
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import ordinals, pair_scores, schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload, Record
from nightrank.storage.gather import gather
from nightrank.storage.reader import Reader
from nightrank.storage.scatter import Scatter
from nightrank.storage.tokens import Tokens

VERSION = 3
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
class RerankInputs:
    """What one rerank step scores.

    Attributes:
        scattered: candidates by document shard.
        queries: distinct queries, for their text hashes.
        query_tokens: their tokens.
        document_tokens: of every segment, by its number.
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
    stores: tuple[Manifest, ...] = ()
    origins: dict[int, Manifest] = field(default_factory=dict)
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
        found: dict[int, list[FileRef]] = {}
        for made in self.stores:
            for record in made.shards:
                if record.files["store"].rows:
                    found.setdefault(record.stats["key"], []).append(record.files["store"])
        return found

    def sources(self, key: int) -> tuple[FileRef | None, list[int]]:
        """A compacted shard's `origin` and the keys its documents had; none for other shards."""
        segment, shard = ordinals.split_key(key)
        if segment not in self.origins:
            return None, []
        record = self.origins[segment].shards[shard]
        return record.files["origin"], record.stats["keys"]


def to_check(queries: Manifest, model: ResolvedModel, stores: tuple[Manifest, ...]) -> int:
    """How many queries of the first shard are scored in fp32 too.

    They are sorted by the hash of their text, so the first are a sample. Where earlier nights have
    scores of this model, it has been measured, and most pairs are not scored at all.
    """
    if model.precision == "fp32" or stores:
        return 0
    share = min(CHECKED_MOST, max(CHECKED_LEAST, queries.rows("queries") // CHECKED_SHARE))
    return min(share, queries.shards[0].files["queries"].rows)


def auto_unit(total: float, minute: int) -> float:
    """Tokens of a unit of `total`, where a worker puts `minute` of them through in a minute."""
    unit = min(minute, max(LEAST_OF_A_MINUTE * minute, total / SMALL_JOB_UNITS))
    return max(unit, total / AUTO_UNITS)


def plan(scored: RerankInputs, unit_tokens: int | str, model: ResolvedModel) -> tuple[Task, ...]:
    """Slices every document shard that has candidates into units of even predicted cost."""
    query_tokens, known = scored.query_tokens, scored.known()
    query_mean = query_tokens.total("tokens") / max(1, query_tokens.rows("tokens"))
    gathered = gather(scored.scattered.files("scatter"))
    cost: dict[int, float] = {}
    lookups: dict[int, tuple[FileRef | None, dict[int, list[FileRef]]]] = {}
    for key, found in gathered.items():
        shard = scored.shard(key)
        mean = query_mean + shard.stats["tokens"] / max(1, shard.files["tokens"].rows)
        cost[key] = found.rows * min(model.max_length_tokens, mean) * scored.share
        origin, keys = scored.sources(key)
        lookups[key] = origin, {k: known[k] for k in (key, *keys) if k in known}
        if lookups[key][1]:
            cost[key] *= UNSEEN_SHARE
    total = sum(cost.values())
    unit = auto_unit(total, model.minute_tokens)
    if isinstance(unit_tokens, int):
        unit = unit_tokens
    tasks = []
    tokens_of, texts_of = query_tokens.files("tokens"), scored.queries.files("queries")
    for key, found in gathered.items():
        shard = scored.shard(key)
        tokens = shard.files["tokens"]
        slices = min(max(1, tokens.rows), max(1, round(cost[key] / unit)))
        origin, stores = lookups[key]
        shared = {
            "key": key,
            "pairs": found,
            "tokens": tokens,
            "queries": {n: (tokens_of[n], texts_of[n]) for n in found.files},
            "stores": stores,
            "origin": origin,
            "ranks": scored.ranks,
        }
        for i in range(slices):
            start, stop = tokens.rows * i // slices, tokens.rows * (i + 1) // slices
            name = f"{shard.shard}.seg-{ordinals.split_key(key)[0]:05d}.slice-{i:04d}"
            tasks.append(Task(name, {"start": start, "stop": stop}, shared=shared))
    return tuple(tasks)


class Worker:
    """Holds the cross-encoder, and the queries it has read."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._config, self._threads = config, threads
        self._model = ResolvedModel.from_dict(config["model"])
        self._models: dict[Precision, CrossEncoder] = {}
        self._queries: dict[str, tuple[Tokens, np.ndarray]] = {}

    def _opened(self, read: Reader, precision: Precision) -> CrossEncoder:
        """Loaded at the first pair that no night has seen.

        In fp32 too, where the declared precision is measured against that.
        """
        if precision not in self._models:
            model = replace(self._model, precision=precision)
            self._models[precision] = load_cross_encoder(on_this_node(model, read), self._threads)
        return self._models[precision]

    def __call__(self, task: Task, read: Reader) -> Payload:
        """Scores the pairs whose document falls into the slice.

        NaN scores travel as they are, those of pairs that killed their worker as null.
        """
        args = {**task.shared, **task.args}
        shards, queries, rows = self._pairs(args, read)
        used, query_index = np.unique(shards << 32 | queries, return_inverse=True)
        query_tokens, hashes = self._used_queries(used, args["queries"], read)
        looked_up = args["stores"], args["key"], args["origin"]
        scores = pair_scores.look_up(*looked_up, hashes, query_index, rows, read)
        unknown = np.isnan(scores)
        # What kills a process is a text: all pairs of a document are left out together.
        asked = np.unique(rows[unknown])
        inside = np.isin(rows, asked[task.chosen(len(asked))])
        unseen, crashed = np.flatnonzero(unknown & inside), unknown & ~inside
        documents, document_index = np.unique(rows[unseen], return_inverse=True)
        tokens = Tokens.from_arrow(read.table(args["tokens"])["tokens"]).take(documents)
        pairs = np.stack([query_index[unseen], document_index], axis=1).astype(np.int32)
        model_seconds, cut = 0.0, SPENT.cut
        if len(unseen):
            model = self._opened(read, self._model.precision)
            begin = time.perf_counter()
            scores[unseen] = model.score(query_tokens, tokens, pairs)
            model_seconds = time.perf_counter() - begin
        cut = SPENT.cut - cut
        places = (np.int64(args["key"]) << ordinals.ROW_BITS) | rows
        column = pa.array(scores, pa.float32(), mask=crashed)
        columns = [pa.array(queries, pa.int32()), pa.array(places), column]
        content = Scatter(pa.table(columns, schema=schemas.SCORES), shards)
        lengths = query_tokens.lengths[query_index[unseen]] + tokens.lengths[document_index]
        stats = {
            "key": args["key"],
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
        checked = (shards == 0) & (queries < self._config["checked"])
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
        kept = np.arange(len(rows)) if self._config["keep_all"] else unseen
        store = pair_scores.to_table(hashes[query_index[kept]], rows[kept], scores[kept])
        return Payload({"scores": content, "store": store}, stats, inputs=len(asked))

    def _pairs(
        self, args: dict[str, Any], read: Reader
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Query shard, query row (int64) and document row (int64) of every pair in the slice."""
        found: list[list[np.ndarray]] = [[np.zeros(0, np.int64)] for _ in range(3)]
        for number, ref, part in args["pairs"]:
            table = read.range(ref, part)
            rows = table["row"].to_numpy().astype(np.int64)
            inside = (rows >= args["start"]) & (rows < args["stop"])
            low, high = args["ranks"]
            rank = table["rank"].to_numpy()
            inside &= (rank > low) & (rank <= high)
            queries = table["query"].to_numpy().astype(np.int64)[inside]
            found[0].append(np.full(len(queries), number, np.int64))
            found[1].append(queries)
            found[2].append(rows[inside])
        shards, queries, rows = (np.concatenate(parts) for parts in found)
        return shards, queries, rows

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


def stage(
    dataset: str, name: str, scored: RerankInputs, model: ResolvedModel, unit_tokens: int | str
) -> Stage:
    """Assembles the stage for one rerank step."""
    return Stage(
        name=name,
        version=VERSION,
        dataset=dataset,
        identity={
            "of": scored.scattered.path,
            "tokens": {str(n): made.path for n, made in scored.document_tokens.items()},
            "stores": [made.path for made in scored.stores],
            "keep_all": scored.keep_all,
            "ranks": list(scored.ranks),
            "checked": scored.checked,
            "model": model.identity(),
        },
        tasks=plan(scored, unit_tokens, model),
        worker=WorkerSpec(
            Worker,
            {
                "model": model.to_dict(),
                "keep_all": scored.keep_all,
                "checked": scored.checked,
            },
        ),
        schemas={"scores": schemas.SCORES, "store": schemas.STORE},
        pool="model",
        divisible=True,
    )
