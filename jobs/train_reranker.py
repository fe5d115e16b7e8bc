"""Trains the built-in reranker: `python -m jobs.train_reranker CONFIG [--set KEY=VALUE ...]`.

Retrieves candidates for every judged query of the configured collections with the base
bi-encoder, mines hard negatives from them, holds out dev queries, fine-tunes a low-rank difference
to the published weights, chooses the first stage's weight on the held-out queries, and writes
`delta.safetensors`, `config.json` and `report.json` into the output folder.

The run is restartable: candidates, checkpoints and the best weights lie in `<output>/work`, and the
same command goes on where they end. Queries that nearly duplicate a query of a `reported` set are
dropped from training and counted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.terminal import ConfigPath, Sets, command
from pipelines.config import Section
from pipelines.config_file import load_section
from pipelines.models.mining import near_duplicates

if TYPE_CHECKING:
    from pipelines.models.judged_collections import Collection

log = logging.getLogger("nightrank.train")
QUERIES_AT_ONCE = 256


class TrainingCollection(Section):
    """A judged collection to train on; paths are relative to `data`.

    Attributes:
        name: names it in reports and work files.
        corpus: JSONL (.gz) with `_id`, `title`, `text`.
        queries: JSONL (.gz) with `_id`, `text`.
        qrels: TSV files with a header: query-id, corpus-id, score.
        weight: its share of the training groups.
        dev_queries: how many of its queries are held out.
        guard_ratio: see `pipelines.models.mining.mine`; null keeps every negative.
    """

    name: str
    corpus: str
    queries: str
    qrels: list[str] = Field(min_length=1)
    weight: float = Field(gt=0)
    dev_queries: int = Field(default=0, ge=0)
    guard_ratio: float | None = None


class ReportedSet(Section):
    """A set whose queries must not be trained on: queries JSONL, and the qrels that select them."""

    queries: str
    qrels: str


class TrainConfig(Section):
    """Everything that decides the trained weights.

    Attributes:
        data: folder that the collections' paths start from.
        output: takes the results, and `work/`.
        candidates_depth: candidates per query, for mining and for the final dev scores.
        negative_pool: negatives kept per positive, hardest first.
        negatives: negatives drawn from the pool each time a group is used.
        learning_rate: the highest; linear warm-up, then half a cosine to zero at `steps`.
        rank: of every linear layer's difference.
        scale: factor of every low-rank product.
        token_budget: padded tokens of one forward batch.
        time_limit_s: stop with a checkpoint after so many seconds.
        checkpoint_every: steps between checkpoints, each with a look at the dev queries.
        checkpoint_dev_queries: dev queries of each collection in such a look.
        checkpoint_dev_depth: candidates per query in such a look.
    """

    data: str = "."
    output: str
    base: Literal["builtin:minilm"] = "builtin:minilm"
    collections: list[TrainingCollection] = Field(min_length=1)
    reported: list[ReportedSet] = []
    candidates_depth: int = Field(default=100, ge=2)
    negative_pool: int = Field(default=50, ge=1)
    negatives: int = Field(default=6, ge=1)
    groups_per_step: int = Field(default=16, ge=1)
    steps: int = Field(ge=1)
    warmup_steps: int = Field(default=50, ge=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    rank: int = Field(default=64, ge=1)
    scale: float = Field(default=1.0, gt=0)
    max_length_tokens: int = Field(default=256, ge=16, le=512)
    token_budget: int = Field(default=6144, ge=16)
    bf16: bool = True
    seed: int = 0
    threads: int = Field(default=2, ge=1)
    time_limit_s: float = Field(default=86_400.0, gt=0)
    checkpoint_every: int = Field(default=100, ge=1)
    checkpoint_dev_queries: int = Field(default=24, ge=1)
    checkpoint_dev_depth: int = Field(default=30, ge=2)


def first_stage_candidates(
    queries: NDArray[np.float32], documents: NDArray[np.float32], depth: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The lists that the pipeline's own first stage gives: Flat, exact-scored.

    Args:
        queries: float32 [q, dimension].
        documents: float32 [n, dimension].
        depth: results per query, at most n.

    Returns:
        int32 [q, depth] rows and float32 [q, depth] scores, best first.
    """
    import pyarrow as pa

    from pipelines.retrieval import faiss_index
    from pipelines.retrieval.first_stage import OpenShard, search_group

    template, _ = faiss_index.train("Flat", documents[:0], 1)
    places = np.arange(len(documents), dtype=np.int64)
    names = pa.array([f"{place:010d}" for place in places])
    shard = OpenShard(faiss_index.add(template, documents), places, names, documents)
    rows, scores = [], []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        found = search_group(queries[start : start + QUERIES_AT_ONCE], [shard], depth)
        rows.append(found["ordinal"].to_numpy().reshape(-1, depth).astype(np.int32))
        scores.append(found["score"].to_numpy().reshape(-1, depth))
    return np.concatenate(rows), np.concatenate(scores)


def add_candidates(config: TrainConfig, collection: Collection, work: Path) -> None:
    """Retrieves a collection's candidates with the base bi-encoder, or reads an earlier run's."""
    from pipelines.models.registry import load_bi_encoder, load_tokenizer, resolve_bi_encoder

    doc_ids = list(collection.texts)
    cache = work / "candidates" / f"{collection.name}.npz"
    if not cache.exists():
        resolved = resolve_bi_encoder(config.base)
        tokenizer, encoder = load_tokenizer(resolved), load_bi_encoder(resolved, config.threads)
        rows, scores = first_stage_candidates(
            encoder.encode(tokenizer(list(collection.queries.values())), "query"),
            encoder.encode(tokenizer(list(collection.texts.values())), "document"),
            min(config.candidates_depth, len(doc_ids)),
        )
        cache.parent.mkdir(parents=True, exist_ok=True)
        unfinished = cache.with_suffix(".part.npz")
        np.savez(unfinished, query_ids=np.array(list(collection.queries)), rows=rows, scores=scores)
        unfinished.replace(cache)
    saved = np.load(cache)
    parts = (saved["query_ids"].tolist(), saved["rows"].tolist(), saved["scores"].tolist())
    for query_id, rows_of, scores_of in zip(*parts, strict=True):
        ranked = zip((doc_ids[row] for row in rows_of), scores_of, strict=True)
        collection.candidates[str(query_id)] = list(ranked)


def reported_queries(config: TrainConfig) -> list[str]:
    """Texts of all queries that scores are reported on."""
    from pipelines.models.judged_collections import read_jsonl, read_qrels

    texts: list[str] = []
    for part in config.reported:
        judged = read_qrels(Path(config.data) / part.qrels)
        rows = read_jsonl(Path(config.data) / part.queries)
        texts += [row["text"] for row in rows if row["_id"] in judged]
    return texts


def run(config: TrainConfig) -> dict[str, Any]:
    """Trains, chooses the weight, writes the results.

    Args:
        config: the whole experiment.

    Returns:
        The report: groups, dropped and held-out queries by collection, dev nDCG@10 by weight, the
        chosen weight, steps and wall time.

    Raises:
        NightrankError: E_CONFIG for unreadable data, E_MODEL where the base weights are missing.
    """
    from pipelines.models import judged_collections as judged
    from pipelines.models.fine_tuning import Shape, fine_tune
    from pipelines.models.registry import load_tokenizer, resolve_bi_encoder
    from pipelines.models.training import Options

    output = Path(config.output)
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(resolve_bi_encoder(config.base))
    data, reported = Path(config.data), reported_queries(config)
    sources, pools, report = [], {}, {}
    for part in config.collections:
        collection = judged.read_collection(
            part.name, data / part.corpus, data / part.queries, [data / path for path in part.qrels]
        )
        add_candidates(config, collection, work)
        dropped = near_duplicates(collection.queries, reported)
        held_out = judged.hold_out(collection, dropped, part.dev_queries, config.seed)
        left_out = dropped | set(held_out)
        source = judged.training_source(
            collection,
            {q: grades for q, grades in collection.qrels.items() if q not in left_out},
            tokenizer,
            weight=part.weight,
            pool=config.negative_pool,
            guard_ratio=part.guard_ratio,
        )
        sources.append(source)
        if held_out:
            pools[part.name] = judged.dev_pools(collection, held_out, tokenizer)
        counts = (len(source.examples), len(dropped), len(held_out))
        report[part.name] = dict(zip(("groups", "dropped", "held_out"), counts, strict=True))
        log.info("%s: %d groups, %d queries dropped, %d held out", part.name, *counts)

    settings = config.model_dump()
    options = Options(**{name: settings[name] for name in Options.__dataclass_fields__})
    shape = Shape(
        rank=config.rank,
        scale=config.scale,
        max_length_tokens=config.max_length_tokens,
        threads=config.threads,
        dev_depth=config.candidates_depth,
        checkpoint_queries=config.checkpoint_dev_queries,
        checkpoint_depth=config.checkpoint_dev_depth,
    )
    whole = {"collections": report} | fine_tune(sources, pools, options, shape, output)
    (output / "report.json").write_text(json.dumps(whole, indent=2) + "\n")
    return whole


def train_reranker(config: ConfigPath, sets: Sets = None) -> None:
    """Trains a cross-encoder as the built-in one was trained; the same command resumes."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    report = run(load_section(TrainConfig, config, sets or []))
    print(json.dumps(report["dev_ndcg@10_by_first_stage_weight"], indent=2))


if __name__ == "__main__":
    command(train_reranker)
