"""Evaluations of result generations: where they are, and the stage that makes one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nightrank.config.schema import Evaluate, PipelineConfig
from nightrank.datasets import cut_inputs
from nightrank.datasets.current_corpus import CurrentCorpus
from nightrank.datasets.judgements import find_qrels
from nightrank.errors import NightrankError
from nightrank.generations.entries import ResultsEntry
from nightrank.inputs.splits import InputFile
from nightrank.runtime.stage import Stage
from nightrank.stages import evaluate
from nightrank.storage.dataset import Dataset, FileRef, Manifest
from nightrank.storage.log import Entry
from nightrank.storage.store import Store


def judgements_of(config: PipelineConfig) -> InputFile:
    """The file of the config's judgements.

    Raises:
        NightrankError: E_CONFIG where it names none; as `find_qrels`.
    """
    if config.evaluate.qrels is None:
        do = "set evaluate.qrels to a TREC or BEIR file"
        raise NightrankError("E_CONFIG", "no judgements given", "evaluate.qrels", do)
    return find_qrels(config.evaluate.qrels, config.storage_options)


def evaluation_stage(
    results: ResultsEntry,
    manifests: tuple[Manifest, Manifest, CurrentCorpus],
    rejects: list[FileRef],
    config: PipelineConfig,
    qrels: InputFile,
) -> Stage:
    """The stage that measures a result generation, published or not.

    Args:
        results: the generation.
        manifests: those of its rank and distinct stages, and its corpus.
        rejects: its files of rejects.
        config: measures and title.
        qrels: the judgements.
    """
    facts = {"index generation": str(results.index_generation), "plan": results.plan_id[:16]}
    facts |= {model["role"].replace("_", "-"): model["model"] for model in results.models}
    if cut := cut_inputs.lines(results.cut):
        facts["cut"] = "; ".join(cut)
    measures = tuple(config.evaluate.measures)
    settings = evaluate.Settings(qrels.url, config.storage_options, measures, config.name, facts)
    sources = evaluate.Sources(*manifests, rejects, settings)
    inputs = replace(_key(results, config.evaluate, qrels), sources=sources)
    return evaluate.STAGE.stage(results.folder, inputs)


def evaluation_file(store: Store, entry: Entry, config: PipelineConfig) -> FileRef:
    """The values of every measure, query and run, as `evaluate` wrote them (`PER_QUERY_SCHEMA`).

    Args:
        store: the lake.
        entry: a published generation.
        config: names the judgements and measures, and with them which evaluation.

    Raises:
        NightrankError: E_CONFIG without judgements; E_EMPTY where these were not evaluated.
    """
    results = ResultsEntry.of(entry)
    inputs = _key(results, config.evaluate, judgements_of(config))
    manifest = Dataset(store, evaluate.STAGE.dataset(results.folder, inputs)).manifest()
    if manifest is None:
        what = f"generation {entry.generation} was not evaluated by these judgements and measures"
        raise NightrankError("E_EMPTY", what, store.url, "run `nightrank evaluate CONFIG` first")
    return manifest.shards[0].files["per_query"]


def rejects_of(files: dict[str, list[dict[str, Any]]]) -> list[FileRef]:
    """The files of rejects among a log entry's files."""
    return [FileRef(**file) for file in files["rejects"]]


def _key(results: ResultsEntry, config: Evaluate, qrels: InputFile) -> evaluate.Inputs:
    return evaluate.Inputs(results.datasets.rank, qrels.identity, tuple(config.measures))
