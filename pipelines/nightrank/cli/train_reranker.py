"""Trains a cross-encoder: `python -m nightrank train-reranker CONFIG [--set KEY=VALUE ...]`.

Retrieves candidates for every query of the configured collections by vectors and BM25, mines hard
negatives from both lists (or takes a teacher's lists), holds out dev queries, fine-tunes, chooses
the first stage's weight on the held-out queries, and writes the model and `report.json`.

The run is restartable: candidates, checkpoints and the best weights lie in the work folder, and the
same command goes on where they end; another config or other data begin anew. Queries that nearly
duplicate a query of a `reported` set are dropped from training and counted.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightrank.cli.terminal import ConfigPath, Sets
from nightrank.errors import NightrankError
from nightrank.runtime import supervisor

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from nightrank.cli.training_config import TrainConfig
    from nightrank.training.judged_collections import Collection

log = logging.getLogger("nightrank.train")
QUERIES_AT_ONCE = 256
K1, B = 0.9, 0.4


def retrieve(
    queries: tuple[list[str], NDArray[np.float32]],
    documents: tuple[list[str], NDArray[np.float32]],
    depth: int,
) -> pa.Table:
    """The pools that the pipeline's own first stage gives, Flat and exact.

    Args:
        queries: texts, and vectors float32 [q, dimension].
        documents: texts, and vectors float32 [n, dimension].
        depth: results per query and list.

    Returns:
        As `hybrid_search.search_both`; ordinals are rows of `documents`.
    """
    import numpy as np
    import pyarrow as pa

    from nightrank.retrieval import bm25, faiss_index
    from nightrank.retrieval.first_stage import OpenShard
    from nightrank.retrieval.hybrid_search import search_both
    from nightrank.retrieval.terms import Analyzer

    analyze = Analyzer("english")
    terms = analyze(documents[0])
    postings = bm25.build(terms, bm25.count([terms]), K1, B)
    template, _ = faiss_index.train("Flat", documents[1][:0], 1)
    places = np.arange(len(documents[0]), dtype=np.int64)
    names = pa.array([f"{place:010d}" for place in places])
    index = faiss_index.add(template, documents[1])
    shard = OpenShard(index, places, names, documents[1], postings)
    found = []
    for start in range(0, len(queries[0]), QUERIES_AT_ONCE):
        some = slice(start, start + QUERIES_AT_ONCE)
        part = search_both(queries[1][some], analyze(queries[0][some]), [shard], depth)
        moved = pa.array(part["query"].to_numpy() + np.int32(start))
        found.append(part.set_column(0, "query", moved))
    return pa.concat_tables(found)


def with_candidates(config: TrainConfig, collection: Collection) -> Collection:
    """A collection with its lists and pools; retrieves them unless an earlier run did."""
    import pyarrow.parquet as pq

    from nightrank.models.registry import load_bi_encoder, load_tokenizer, resolve_bi_encoder
    from nightrank.retrieval import hybrid, ranking
    from nightrank.storage.fingerprint import fingerprint
    from nightrank.training.judged_collections import RankedLists

    resolved = resolve_bi_encoder(
        config.encoder, revision=config.encoder_revision, precision=config.encoder_precision
    )
    key = {"encoder": resolved.identity(), "depth": config.candidates_depth, "bm25": [K1, B]}
    key |= {"texts": list(collection.texts.items()), "queries": list(collection.queries.items())}
    cache = config.work_folder / f"candidates-{collection.name}-{fingerprint(key)}.parquet"
    if not cache.exists():
        tokenizer, encoder = load_tokenizer(resolved), load_bi_encoder(resolved, config.threads)
        asked, texts = list(collection.queries.values()), list(collection.texts.values())
        log.info("%s: encoding %d documents", collection.name, len(texts))
        table = retrieve(
            (asked, encoder.encode(tokenizer(asked), "query")),
            (texts, encoder.encode(tokenizer(texts), "document")),
            min(config.candidates_depth, len(texts)),
        )
        unfinished = cache.with_suffix(".part")
        pq.write_table(table, unfinished)
        unfinished.replace(cache)
    table, depth = pq.read_table(cache), config.candidates_depth

    def ranked(part: pa.Table) -> RankedLists:
        columns = (part[name].to_numpy() for name in ("query", "ordinal", "score"))
        return RankedLists(list(collection.queries), list(collection.texts), *columns)

    dense, lexical = (
        ranked(ranking.rank(table.append_column("score", table[name]), depth))
        for name in (hybrid.DENSE, hybrid.BM25)
    )
    if not config.bm25_weight:
        return replace(collection, lists=[dense], candidates=dense)
    fused = ranked(hybrid.fuse(table, config.bm25_weight, depth))
    return replace(collection, lists=[dense, lexical], candidates=fused)


def reported_queries(config: TrainConfig) -> list[str]:
    """Texts of all queries that scores are reported on."""
    from nightrank.training.judged_collections import read_qrels, read_rows

    texts: list[str] = []
    for part in config.reported:
        judged = read_qrels(Path(config.data) / part.qrels)
        rows = read_rows(Path(config.data) / part.queries)
        texts += [row["text"] for row in rows if row["_id"] in judged]
    return texts


def collections(config: TrainConfig) -> list[Collection]:
    """The configured collections with their candidates."""
    from nightrank.training import judged_collections as judged

    data, found = Path(config.data), []
    config.work_folder.mkdir(parents=True, exist_ok=True)
    for part in config.collections:
        teacher = None
        if part.teacher:
            teacher = judged.read_teacher(data / part.teacher, part.teacher_column)
        qrels = [data / path for path in part.qrels]
        paths = (data / part.corpus, data / part.queries)
        collection = judged.read_collection(part.name, *paths, qrels, teacher)
        found.append(with_candidates(config, collection))
    return found


def train_here(config: TrainConfig) -> dict[str, Any]:
    """Trains in this process, alone or as one of several, once candidates are there.

    Returns:
        The report: groups, dropped and held-out queries by collection, dev nDCG@10 by weight, the
        chosen weight, steps, pairs and wall time.
    """
    from nightrank.storage.fingerprint import fingerprint
    from nightrank.training.fine_tuning import DevOptions, fine_tune
    from nightrank.training.groups import Draw
    from nightrank.training.held_out import held_out_queries, hold_out
    from nightrank.training.loop import Options
    from nightrank.training.mining import near_duplicates
    from nightrank.training.sources import training_source
    from nightrank.training.trainee import TraineeSettings, make_trainee

    settings = config.model_dump()
    identity = {"config": config.semantic(), "inputs": config.inputs()}
    checkpoints = config.work_folder / f"training-{fingerprint(identity)}"
    trainee = make_trainee(
        TraineeSettings(**{n: settings[n] for n in TraineeSettings.__dataclass_fields__})
    )
    reported = reported_queries(config)
    sources, dev_queries, report = [], {}, {}
    for part, collection in zip(config.collections, collections(config), strict=True):
        dropped = near_duplicates(collection.queries, reported)
        held_out = hold_out(collection, dropped, part.dev_queries, config.seed)
        source = training_source(
            collection,
            dropped | set(held_out),
            trainee.tokenizer,
            weight=part.weight,
            max_negatives=config.negative_pool,
            guard_ratio=part.guard_ratio,
        )
        if not source.examples:
            what = f"collection {part.name} gives no training group"
            do = "check its qrels (or teacher), dev_queries and reported sets"
            raise NightrankError("E_EMPTY", what, str(Path(config.data) / part.corpus), do)
        sources.append(source)
        if held_out:
            dev_queries[part.name] = held_out_queries(collection, held_out, trainee.tokenizer)
        counts = (len(source.examples), len(dropped), len(held_out))
        report[part.name] = dict(zip(("groups", "dropped", "held_out"), counts, strict=True))
        log.info("%s: %d groups, %d queries dropped, %d held out", part.name, *counts)
    own = {n: settings[n] for n in Options.__dataclass_fields__ if n != "draw"}
    draw = Draw(**{n: settings[n] for n in Draw.__dataclass_fields__})
    dev = DevOptions(
        config.candidates_depth, config.checkpoint_dev_queries, config.checkpoint_dev_depth
    )
    output, weight = Path(config.output), config.first_stage_weight
    fixed = None if weight == "auto" else weight
    options = Options(draw=draw, **own)
    result = fine_tune(
        trainee, sources, dev_queries, options, dev, checkpoints, output / "model", fixed
    )
    whole = {"collections": report} | result.to_dict()
    if result.config is not None:  # Only the first of several processes writes a model.
        whole["identity"] = identity
        (output / "report.json").write_text(json.dumps(whole, indent=2) + "\n")
    return whole


def _train_worker(plain: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    from nightrank.cli.training_config import TrainConfig

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    train_here(TrainConfig.model_validate(plain))


def run(config: TrainConfig) -> dict[str, Any]:
    """Trains, chooses the weight, writes the results; see `train_here`.

    Raises:
        NightrankError: E_CONFIG for unreadable data, E_EMPTY for a collection without a group,
            E_MODEL where the base cannot be used, E_CLUSTER where workers fail.
    """
    if not config.workers:
        return train_here(config)
    from nightrank.config.running import Cluster
    from nightrank.runtime.ray_training import train_together

    collections(config)  # Once, here: the workers find the candidates.
    places = {"data": config.data, "output": config.output, "work": str(config.work_folder)}
    absolute = {name: str(Path(path).resolve()) for name, path in places.items()}
    plain = config.model_copy(update=absolute).model_dump()
    cluster = Cluster(address=config.address)
    folder = f"{absolute['work']}/ray"
    train_together(
        cluster, _train_worker, plain, config.workers, config.threads, config.gpus, folder
    )
    return dict(json.loads((Path(config.output) / "report.json").read_text()))


def train_reranker(config: ConfigPath, sets: Sets = None) -> None:
    """Trains a cross-encoder from judgements or a teacher's scores; the same command resumes."""
    from nightrank.cli.training_config import TrainConfig
    from nightrank.config.file import load_section

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    loaded = load_section(TrainConfig, config, sets or [])
    if loaded.workers:
        supervisor.supervise(loaded.address or "a cluster started here")
    report = run(loaded)
    print(json.dumps(report["dev_ndcg@10_by_first_stage_weight"], indent=2))
