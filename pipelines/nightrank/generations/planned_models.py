"""The models of a plan: found and fixed before anything is spent, and stored where workers look.

Knows nothing about: inputs, generations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nightrank.config.schema import PipelineConfig
from nightrank.models import stored as stored_models
from nightrank.models.folders.locating import ModelFolder
from nightrank.models.folders.network_size import minute_tokens
from nightrank.models.hardware import has_cuda
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import (
    is_bundled,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from nightrank.storage.store import Store


def resolve_models(
    config: PipelineConfig, store: Store
) -> tuple[ResolvedModel, tuple[ResolvedModel, ...]]:
    """The bi-encoder and the rerankers, pinned by digest, precision decided.

    What is not found under its name here, but was stored in the lake under it, is taken from there.
    Where the config gives workers GPUs, precision is theirs: a head that plans may have none.
    """
    gpus = {"embed": config.cluster.gpus_of("embed"), "rerank": config.cluster.gpus_of("rerank")}

    def resolved(stage: str, model: ResolvedModel, precision: str) -> ResolvedModel:
        if model.family == "toy":
            return model
        said = gpus[stage]
        half = said and precision != "exact"
        speed = minute_tokens(model, has_cuda() if said is None else said > 0)
        return replace(model, precision="bf16" if half else model.precision, minute_tokens=speed)

    settings = config.encoder.model_dump()
    name, precision = settings.pop("model"), settings.pop("precision")
    located = stored_models.find(store, name, config.encoder.revision)
    here = "exact" if gpus["embed"] else precision
    made = resolve_bi_encoder(name, **settings, precision=here, located=located)
    encoder, steps = resolved("embed", made, precision), []
    for step in config.rerank:
        made = resolve_cross_encoder(
            step.model,
            revision=step.revision,
            precision="exact" if gpus["rerank"] else step.precision,
            max_length_tokens=step.max_length_tokens,
            located=stored_models.find(store, step.model, step.revision),
        )
        steps.append(resolved("rerank", made, step.precision))
    return encoder, tuple(steps)


def kept_in_the_lake(
    store: Store, model: ResolvedModel, revision: str | None, tell: Callable[[str], Any]
) -> ResolvedModel:
    """The model with its files in the lake, where any node's workers find them.

    Args:
        store: the lake.
        model: as resolved on this machine, which has the files.
        revision: as the config names it.
        tell: given a line where it has to be copied.
    """
    if is_bundled(model.model):
        return model
    located, name = ModelFolder(Path(model.path), model.revision), (model.model, revision)
    return replace(model, stored=stored_models.put(store, located, model.digest, name, tell))
