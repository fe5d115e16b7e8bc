"""Checks the models of a config: they are located, opened and run once on this machine."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightrank.config.schema import PipelineConfig, RerankStep
from nightrank.diagnosis.finding import Finding, examine
from nightrank.models import stored as stored_models
from nightrank.models.describing import Difference, as_stored, compare_outputs, describe
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import (
    is_bundled,
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from nightrank.storage.dataset import Dataset
from nightrank.storage.store import Store

TEXT = ["a text to open the model with"]


def models(config: PipelineConfig, store: Store | None) -> Iterator[Finding]:
    """The encoder and every reranker.

    Args:
        config: the experiment.
        store: the lake, where models may be stored; None where it does not answer.
    """
    settings = config.encoder.model_dump()
    name = settings.pop("model")
    prompts = config.encoder.query_prompt, config.encoder.document_prompt

    def encoder() -> ResolvedModel:
        located = stored_models.find(store, name, config.encoder.revision) if store else None
        return resolve_bi_encoder(name, **settings, located=located)

    yield from examine("encoder", lambda: _opened("encoder", encoder, store, prompts))
    for step in config.rerank:
        resolve = functools.partial(_reranker, step, store)
        yield from examine(step.name, functools.partial(_opened, step.name, resolve, store))


def _reranker(step: RerankStep, store: Store | None) -> ResolvedModel:
    return resolve_cross_encoder(
        step.model,
        revision=step.revision,
        precision=step.precision,
        max_length_tokens=step.max_length_tokens,
        located=stored_models.find(store, step.model, step.revision) if store else None,
    )


def _opened(
    check: str,
    resolve: Callable[[], ResolvedModel],
    store: Store | None,
    prompts: tuple[str | None, str | None] = (None, None),
) -> Iterator[Finding]:
    """Resolves a model, opens it as workers do, and runs it on a text.

    Workers have only the files that the lake stores, so the model is opened from these alone.
    """
    began, threads = time.monotonic(), os.cpu_count() or 1
    model = resolve()
    folder = Path(model.path)
    with tempfile.TemporaryDirectory(prefix="nightrank-model-") as copy:
        own = not is_bundled(model.model)
        stored = as_stored(model, Path(copy)) if own else model
        outputs = _outputs(stored, threads)
        found = f"{model.model} in {model.precision}, opened in {time.monotonic() - began:.1f} s"
        if not np.isfinite(outputs).all():
            do = "use precision: exact, or another model"
            yield Finding(check, "fail", f"{found}, returns values that are not finite", do)
            return
        yield Finding(check, "ok", f"{found}; {_place(model, store)}")
        yield Finding(f"{check} means", "ok", describe(model, folder))
        if own:
            yield _compared(check, compare_outputs(stored, folder, prompts, threads))


def _outputs(model: ResolvedModel, threads: int) -> NDArray[np.float32]:
    """The outputs for one text, or for the pair of the text with itself."""
    tokens = load_tokenizer(model)(TEXT)
    if model.role == "bi_encoder":
        return load_bi_encoder(model, threads).encode(tokens, "query")
    pairs = np.zeros((1, 2), np.int32)
    return load_cross_encoder(model, threads).score(tokens, tokens, pairs)


def _place(model: ResolvedModel, store: Store | None) -> str:
    if is_bundled(model.model):
        return "bundled"
    if store and Dataset(store, stored_models.dataset_of(model.identity())).manifest():
        return "stored in the lake"
    return "the first run stores it in the lake"


def _compared(check: str, compared: Difference | None) -> Finding:
    name = f"{check} outputs"
    if compared is None:
        found = "not compared: not a model of sentence-transformers, or too large to load twice"
        return Finding(name, "ok", found)
    found = f"differs from sentence-transformers by at most {compared.largest:.1e} of its outputs"
    if compared.largest <= compared.tolerance:
        return Finding(name, "ok", found)
    do = "do not use it: a setting of its folder is ignored; report it as a bug"
    return Finding(name, "fail", f"{found}, expected at most {compared.tolerance:.0e}", do)
