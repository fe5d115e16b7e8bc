"""Freezes what a run will read and compute, before anything is spent.

A plan's identity is the sha256 of the semantic config, the inputs' digests, the models' digests
with their resolved precision, and the stages' versions; never worker counts, paths of the lake, or
the clock. The same plan resumes; another plan never mixes with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from pipelines import stages
from pipelines.config import Corpus, PipelineConfig, Queries
from pipelines.errors import NightrankError
from pipelines.evaluation import measures
from pipelines.models.protocols import ResolvedModel
from pipelines.models.registry import resolve_bi_encoder, resolve_cross_encoder
from pipelines.stages.ingest import load_qrels
from pipelines.storage.fingerprint import SHORT, digest, fingerprint
from pipelines.storage.inputs import InputFile, Split, is_inside, list_inputs, plan_splits
from pipelines.storage.log import Log
from pipelines.storage.store import Store

FORMAT = 1


@dataclass(frozen=True)
class Plan:
    """One run, decided.

    Attributes:
        plan_id: sha256 hex of everything that can change the results.
        folder: where the run's own datasets lie, `results/<id>.<epoch>`.
        watermark: result generation that was current when the plan was made.
        published: the generation that already holds this very plan's results, if current.
        segment: folder of the corpus segment.
        queries: folder of the queries.
    """

    config: PipelineConfig
    plan_id: str
    folder: str
    watermark: int
    published: int | None
    segment: str
    queries: str
    corpus_files: tuple[InputFile, ...]
    query_files: tuple[InputFile, ...]
    corpus_splits: tuple[Split, ...]
    query_splits: tuple[Split, ...]
    qrels: InputFile | None
    encoder: ResolvedModel
    steps: tuple[ResolvedModel, ...]

    def weight(self, step: int) -> float:
        """The first-stage weight of a rerank step, `auto` resolved."""
        wanted = self.config.rerank[step].first_stage_weight
        return self.steps[step].recommended_first_stage_weight if wanted == "auto" else wanted


def make_plan(config: PipelineConfig, store: Store) -> Plan:
    """Lists and digests inputs, resolves models, and finds or creates the run's folder.

    Raises:
        NightrankError: E_EMPTY, E_SCHEMA for inputs; E_MODEL for models; E_CONFIG where the lake
            lies inside an input.
    """
    options = config.storage_options
    for name, source in (("corpus", config.corpus), ("queries", config.queries)):
        if is_inside(store.path("."), source.path):
            what = f"root would lie inside the {name}'s input {source.path}"
            raise NightrankError("E_CONFIG", what, config.root, "choose another root")
    measures.parse(config.evaluate.measures)  # A misspelt name fails now, not in the morning.
    encoder, steps = resolve_models(config)
    corpus_files = list_inputs(config.corpus.path, config.corpus.format, options)
    query_files = list_inputs(config.queries.path, config.queries.format, options)
    qrels = None
    if config.evaluate.qrels:
        # Judgements are one file in one of two text forms, whatever its name ends with.
        qrels = list_inputs(config.evaluate.qrels, "tsv", options)[0]
        load_qrels(qrels.url, options)
    segment = fingerprint(_source(config.corpus, corpus_files, config))
    queries = {
        **_source(config.queries, query_files, config),
        "judged_by": qrels.identity if qrels and config.queries.only_judged else "",
    }
    identity = {
        "format": FORMAT,
        "config": config.semantic(),
        "corpus": [file.identity for file in corpus_files],
        "queries": queries,
        "encoder": encoder.identity(),
        "rerank": [step.identity() for step in steps],
        "stages": stages.VERSIONS,
    }
    plan_id = digest(identity)
    folder, watermark, published = _epoch(store, plan_id, identity)
    return Plan(
        config,
        plan_id,
        folder,
        watermark,
        published,
        f"segments/{segment}",
        f"queries/{fingerprint(queries)}",
        corpus_files,
        query_files,
        plan_splits(corpus_files, options, by_file=config.corpus.on_bad_file == "reject"),
        plan_splits(query_files, options, by_file=config.queries.on_bad_file == "reject"),
        qrels,
        encoder,
        steps,
    )


def resolve_models(config: PipelineConfig) -> tuple[ResolvedModel, tuple[ResolvedModel, ...]]:
    """The bi-encoder and the rerankers, pinned by digest, precision decided."""
    settings = config.encoder.model_dump()
    encoder = resolve_bi_encoder(settings.pop("model"), **settings)
    steps = tuple(
        resolve_cross_encoder(
            step.model,
            revision=step.revision,
            precision=step.precision,
            max_length_tokens=step.max_length_tokens,
        )
        for step in config.rerank
    )
    return encoder, steps


def _source(
    source: Corpus | Queries, files: tuple[InputFile, ...], config: PipelineConfig
) -> dict[str, Any]:
    """What a segment or a set of queries is made of; its folder's name."""
    plain = source.model_dump(mode="json", exclude={"path", "reject_budget", "allow_empty"})
    return {
        "source": plain,
        # Names go into the rejects, so a renamed input is another input.
        "files": [[file.url, file.identity] for file in files],
        "layout": config.layout.model_dump(),
    }


def _epoch(store: Store, plan_id: str, identity: dict[str, Any]) -> tuple[str, int, int | None]:
    """The run's folder, its watermark, and the generation if the plan is published and current.

    A plan is a no-op only while it is current; asked for again later it takes the next epoch.
    """
    log = Log(store, "results")
    current = log.current()
    generation = current.generation if current else 0
    if current and current.body["plan_id"] == plan_id:
        return current.body["folder"], current.body["watermark"], generation
    epochs = [
        entry.body["epoch"]
        for entry in map(log.read, log.generations())
        if entry.body["plan_id"] == plan_id
    ]
    epoch = max(epochs) + 1 if epochs else 0
    folder = f"results/{plan_id[:SHORT]}.{epoch}"
    body = {"plan_id": plan_id, "watermark": generation, "identity": identity}
    data = orjson.dumps(body, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    key = f"{folder}/plan.json"
    if not store.put_if_absent(key, data):
        # Begun before: it keeps the watermark it was given, unless it was overtaken since. Then it
        # is planned anew: the plan's identity says that it is still what is asked for.
        given = orjson.loads(store.read(key))["watermark"]
        if not current or current.body["watermark"] <= given:
            generation = given
    return folder, generation, None
