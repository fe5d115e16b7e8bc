"""The models of a config: found, of the precision asked for, and opened once on this machine."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from nightrank import stored_models
from nightrank.config import PipelineConfig, RerankStep
from nightrank.diagnosis.finding import Finding, examine
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import (
    comes_with_the_program,
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
        config: names them.
        store: the lake, where models may be stored; None where it does not answer.
    """
    settings = config.encoder.model_dump()
    name = settings.pop("model")

    def encoder() -> ResolvedModel:
        found = stored_models.find(store, name, config.encoder.revision) if store else None
        return resolve_bi_encoder(name, **settings, found=found)

    yield from examine("encoder", lambda: _opened("encoder", encoder, store))
    for step in config.rerank:
        resolve = functools.partial(_reranker, step, store)
        yield from examine(step.name, functools.partial(_opened, step.name, resolve, store))


def _reranker(step: RerankStep, store: Store | None) -> ResolvedModel:
    return resolve_cross_encoder(
        step.model,
        revision=step.revision,
        precision=step.precision,
        max_length_tokens=step.max_length_tokens,
        found=stored_models.find(store, step.model, step.revision) if store else None,
    )


def _opened(
    check: str, resolve: Callable[[], ResolvedModel], store: Store | None
) -> Iterator[Finding]:
    """Resolves a model, loads it and runs one text through it."""
    began, threads = time.monotonic(), os.cpu_count() or 1
    model = resolve()
    tokens = load_tokenizer(model)(TEXT)
    if model.role == "bi_encoder":
        made = load_bi_encoder(model, threads).encode(tokens, "query")
    else:
        pairs = np.zeros((1, 2), np.int32)
        made = load_cross_encoder(model, threads).score(tokens, tokens, pairs)
    found = f"{model.model} in {model.precision}, opened in {time.monotonic() - began:.1f} s"
    if not np.isfinite(made).all():
        do = "use precision: exact, or another model"
        yield Finding(check, "fail", f"{found}, gives values that are not finite", do)
        return
    if comes_with_the_program(model.model):
        where = "comes with the program"
    elif store and Dataset(store, stored_models.dataset_of(model.identity())).manifest():
        where = "stored in the lake"
    else:
        where = "the first run stores it in the lake"
    yield Finding(check, "ok", f"{found}; {where}")
