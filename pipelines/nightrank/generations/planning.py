"""Freezes what a run will read and compute, before anything is spent.

A plan's identity is the sha256 of the semantic config, the inputs' digests, and the models' digests
with their resolved precision and speed (units are cut by it); never worker counts, paths of the
lake, or the clock. Versions of stages are part of the datasets' identities instead: after an
upgrade the same plan keeps what the new versions would compute alike. The same plan resumes;
another plan never mixes with it. What it builds on (the index generation its corpus is compared
with, the result generation whose lists and scores are taken over) is frozen with it, and is no part
of its identity: the results are those of a run from nothing under the same index template.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from nightrank.config.schema import Corpus, PipelineConfig, Queries
from nightrank.datasets.judgements import find_qrels, load_qrels
from nightrank.errors import NightrankError
from nightrank.evaluation import measures
from nightrank.generations.corpus import current_results
from nightrank.generations.entries import IndexEntry, ResultsEntry
from nightrank.generations.epochs import Epoch, PlanIdentity, epoch_of
from nightrank.generations.planned_models import kept_in_the_lake, resolve_models
from nightrank.generations.stage_order import segment_versions, vectors_key, versions
from nightrank.inputs.left_out import LeftOut
from nightrank.inputs.splits import (
    InputFile,
    Inventory,
    Split,
    check_partitions,
    inventory,
    is_inside,
    plan_splits,
)
from nightrank.models.protocols import ResolvedModel
from nightrank.retrieval.terms import languages
from nightrank.storage.fingerprint import digest, fingerprint
from nightrank.storage.log import Log
from nightrank.storage.store import Store

# What a run brings up to date: both halves, the index alone, the results alone.
Scope = Literal["all", "index", "results"]


@dataclass(frozen=True)
class Plan:
    """One run, decided.

    Attributes:
        plan_id: sha256 hex of everything that can change the results, but versions of stages.
        versions: of the stages.
        folder: where the run's own datasets lie, `results/<id>.<epoch>`.
        watermark: last number of the results log when the plan was made.
        index_watermark: last number of the index log.
        published: the generation that already holds this very plan's results, if current.
        scope: which halves are run.
        base: the index generation that the corpus is compared with, or that is ranked against.
        earlier: the result generation whose lists and scores may be taken over.
        source_id: what documents of one text are made of; segments of another are of no use.
        query_source_id: the same of queries.
        files_id: the files of the corpus's input.
        corpus_id: the corpus: that input, and of a change feed all those before it.
        segment: folder of what this run adds to the corpus.
        queries: folder of the queries.
        left_out: files of the `corpus` and the `queries` that are not read.
        bands: depths that the last rerank step completes one after the other.
    """

    config: PipelineConfig
    plan_id: str
    versions: dict[str, int]
    folder: str
    watermark: int
    index_watermark: int
    published: int | None
    scope: Scope
    base: IndexEntry | None
    earlier: ResultsEntry | None
    source_id: str
    query_source_id: str
    files_id: str
    corpus_id: str
    segment: str
    queries: str
    bands: tuple[int, ...]
    corpus_files: tuple[InputFile, ...]
    query_files: tuple[InputFile, ...]
    left_out: dict[str, LeftOut]
    corpus_splits: tuple[Split, ...]
    query_splits: tuple[Split, ...]
    qrels: InputFile | None
    encoder: ResolvedModel
    steps: tuple[ResolvedModel, ...]

    @property
    def own_folder(self) -> str:
        """Where what belongs to this plan alone lies; of an index alone, beside its segment."""
        return self.folder or self.segment

    def weight(self, step: int) -> float:
        """The first-stage weight of a rerank step, `auto` resolved."""
        wanted = self.config.rerank[step].first_stage_weight
        return self.steps[step].recommended_first_stage_weight if wanted == "auto" else wanted

    @property
    def usable_base(self) -> IndexEntry | None:
        """The base, where its segments hold what this config would have made of their rows."""
        return _usable(self.base, self.source_id)

    @property
    def corpus_is_indexed(self) -> bool:
        """Whether the base already holds this very corpus: there is nothing to ingest."""
        return self.usable_base is not None and self.usable_base.corpus_id == self.corpus_id


def make_plan(
    config: PipelineConfig,
    store: Store,
    scope: Scope = "all",
    index_generation: int | None = None,
    keeps: bool = True,
) -> Plan:
    """Lists and digests inputs, resolves models, and finds or creates the run's folder.

    Args:
        config: the experiment.
        store: its lake.
        scope: which halves are to be run; the inputs of the other need not exist.
        index_generation: with scope `results`, rank against this one and not the current.
        keeps: whether the plan is written to the lake; without, nothing is written at all.

    Raises:
        NightrankError: E_EMPTY, E_SCHEMA for inputs; E_MODEL for models; E_CONFIG where the lake
            lies inside an input, or an index was built by other settings than it is ranked with.
    """
    options = config.storage_options
    for name, source in (("corpus", config.corpus), ("queries", config.queries)):
        if is_inside(store.path("."), source.path):
            what = f"root would lie inside the {name}'s input {source.path}"
            raise NightrankError("E_CONFIG", what, config.root, "choose another root")
    measures.parse(config.evaluate.measures)  # A misspelt name fails now, not in the morning.
    language = config.retrieve.bm25.language
    if language not in languages():
        what = f"retrieve.bm25.language {language!r} is unknown"
        raise NightrankError("E_CONFIG", what, "", f"known: {', '.join(languages())}")
    encoder, steps = resolve_models(config, store)
    index = Log(store, "index")
    chosen = index.current() if index_generation is None else index.as_of(str(index_generation))
    base = IndexEntry.of(chosen) if chosen else None
    source_id = fingerprint(_source(config.corpus, config))
    corpus_files, query_files = Inventory(), Inventory()
    files_id = ""
    if scope == "results":
        corpus_id = _ranked_against(base, source_id, encoder)
    else:
        corpus_files = input_inventory(config.corpus, options)
        check_partitions(config.corpus.path, config.corpus.partitions, corpus_files.files)
        named = [[file.url, file.identity] for file in corpus_files.files]
        files_id = corpus_id = fingerprint({"source": source_id, "files": named})
        if config.corpus.feed and (indexed := _usable(base, source_id)):
            seen = indexed.files_id == files_id  # A feed that was ingested before adds nothing.
            onto = {"feed": files_id, "onto": indexed.corpus_id}
            corpus_id = indexed.corpus_id if seen else fingerprint(onto)
    qrels = None
    if scope != "index":
        query_files = input_inventory(config.queries, options)
        if config.evaluate.qrels:
            qrels = find_qrels(config.evaluate.qrels, options)
            load_qrels(qrels.url, options)
    query_source = {
        "source": _source(config.queries, config),
        "judged_by": qrels.identity if qrels and config.queries.only_judged else "",
    }
    queries = {
        **query_source,
        # Names go into the rejects, so a renamed input is another input.
        "files": [[file.url, file.identity] for file in query_files.files],
    }
    identity = {
        "config": config.semantic(),
        "corpus": corpus_id,
        "queries": queries,
        "encoder": encoder.identity(),
        "rerank": [step.identity() for step in steps],
        "minute_tokens": [
            model.minute_tokens if step.unit_tokens == "auto" else 0
            for model, step in zip(steps, config.rerank, strict=True)
        ],
    }
    planned = PlanIdentity(digest(identity), identity, versions())
    if scope == "index":
        epoch = Epoch("", 0, None, base, current_results(store), ())
    else:
        bands = config.budget.rerank_first if config.budget.limited else []
        ranked = corpus_id if scope == "results" else ""
        epoch = epoch_of(store, planned, base, bands, ranked, keeps)
    compared = _compared_with(_usable(epoch.base, source_id))
    segment = fingerprint({"corpus": corpus_id, "base": compared})
    return Plan(
        config,
        planned.plan_id,
        planned.versions,
        epoch.folder,
        epoch.watermark,
        index.last(),
        epoch.published,
        scope,
        epoch.base,
        epoch.earlier,
        source_id,
        fingerprint(query_source),
        files_id,
        corpus_id,
        f"segments/{segment}",
        f"queries/{fingerprint(queries)}",
        epoch.bands,
        corpus_files.files,
        query_files.files,
        {"corpus": corpus_files.left_out, "queries": query_files.left_out},
        input_splits(config.corpus, corpus_files.files, options),
        input_splits(config.queries, query_files.files, options),
        qrels,
        encoder,
        steps,
    )


def store_models(plan: Plan, store: Store, note: Callable[[str], Any]) -> Plan:
    """The plan with its models in the lake, where any node's workers find them.

    Args:
        plan: as `make_plan` has left it; its folder exists, so `gc` keeps what it names.
        store: its lake.
        note: given a line for every model that has to be copied.
    """
    steps = zip(plan.steps, plan.config.rerank, strict=True)
    return replace(
        plan,
        encoder=kept_in_the_lake(store, plan.encoder, plan.config.encoder.revision, note),
        steps=tuple(kept_in_the_lake(store, model, step.revision, note) for model, step in steps),
    )


def input_inventory(source: Corpus | Queries, options: dict[str, Any]) -> Inventory:
    """The files of an input; see `storage.inputs.inventory`."""
    return inventory(source.path, source.format, options, source.ignore)


def input_splits(
    source: Corpus | Queries, files: tuple[InputFile, ...], options: dict[str, Any]
) -> tuple[Split, ...]:
    """The splits of an input; see `storage.inputs.plan_splits`."""
    return plan_splits(files, options, by_file=source.on_bad_file == "reject")


def _source(source: Corpus | Queries, config: PipelineConfig) -> dict[str, Any]:
    """What rows become of an input's, whatever files they stand in."""
    outside = {"path", "ignore", "reject_budget", "allow_empty", "partitions"}
    plain = source.model_dump(mode="json", exclude=outside)
    rows = config.layout.document_shard_rows
    if isinstance(source, Queries):
        rows = config.layout.query_shard_rows
    return {"source": plain, "shard_rows": rows}


def _usable(base: IndexEntry | None, source_id: str) -> IndexEntry | None:
    """An index generation, where its segments hold what the config would have made of their rows.

    They do where the sections of the config agree, and the versions of the stages that wrote them.
    """
    if base is None or base.source_id != source_id:
        return None
    current = segment_versions(compacted=False), segment_versions(compacted=True)
    return base if all(segment.versions in current for segment in base.segments) else None


def _compared_with(base: IndexEntry | None) -> Any:
    """What a new segment depends on: the documents that exist already."""
    if base is None:
        return None
    return [[segment.documents for segment in base.segments], list(base.tombstones)]


def _ranked_against(base: IndexEntry | None, source_id: str, encoder: ResolvedModel) -> str:
    """The corpus of an index that is ranked against without changes."""
    do = "run `nightrank reindex CONFIG` first"
    if base is None:
        raise NightrankError("E_EMPTY", "no index is published yet", "index", do)
    if _usable(base, source_id) is None or base.vectors_key != vectors_key(encoder):
        what = f"index generation {base.generation} was built by another corpus or encoder section"
        raise NightrankError("E_CONFIG", what, "corpus, layout, encoder", do)
    return base.corpus_id
