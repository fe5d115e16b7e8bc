"""Resolves models whose limits, dimension and prompts only their library or tokenizer knows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from nightrank.errors import NightrankError
from nightrank.models.folders import builtin, semantics, settings
from nightrank.models.folders.files import folder_digest, read_json
from nightrank.models.hardware import resolve_precision
from nightrank.models.protocols import ResolvedModel
from nightrank.models.text.splicing import provable_template
from nightrank.models.text.tokenizers import pretrained_tokenizer, spliced_name, utf8_name

UNSTATED = 1 << 20  # tokenizers without a limit report one far above any real one
SHORTEST_INPUT_TOKENS = 8
FALLBACK_MAX_LENGTH_TOKENS = 512


def minilm(model: str, precision: str, max_length_tokens: int | None) -> ResolvedModel:
    """The built-in bi-encoder; see `registry.resolve_bi_encoder`."""
    folder = builtin.minilm_folder()
    return ResolvedModel(
        model=model,
        role="bi_encoder",
        family="minilm",
        path=str(folder),
        digest=builtin.minilm_digest(),
        precision=resolve_precision(precision),
        max_length_tokens=_limit(
            model, max_length_tokens, builtin.MINILM_MAX_LENGTH_TOKENS, builtin.POSITIONS
        ),
        tokenizer=spliced_name(folder, builtin.POSITIONS),
        dimension=builtin.MINILM_DIMENSION,
        normalize=True,
    )


def reranker(
    model: str, folder: Path, precision: str, max_length_tokens: int | None
) -> ResolvedModel:
    """The built-in cross-encoder, or a fine-tuned one; see `registry.resolve_cross_encoder`."""
    base, delta = builtin.minilm_folder(), builtin.reranker_folder(folder)
    config = builtin.read_reranker_config(delta)
    return ResolvedModel(
        model=model,
        role="cross_encoder",
        family="minilm",
        path=str(delta),
        digest=builtin.reranker_digest(delta),
        precision=resolve_precision(precision),
        max_length_tokens=_limit(
            model, max_length_tokens, config.max_length_tokens, builtin.POSITIONS
        ),
        tokenizer=spliced_name(base, builtin.POSITIONS),
        recommended_first_stage_weight=config.recommended_first_stage_weight,
    )


def sentence_transformer(
    model: str,
    folder: Path,
    precision: str,
    max_length_tokens: int | None,
    prompts: tuple[str | None, str | None],
    dimension: int | None,
) -> ResolvedModel:
    """A sentence-transformers folder; see `registry.resolve_bi_encoder`."""
    from nightrank.models.engines import torch_library

    semantics.require_kind(folder, "bi_encoder", model)
    query, document = semantics.bi_encoder_prompts(folder, model, *prompts)
    resolved_precision = resolve_precision(precision)
    opened = torch_library.sentence_transformer(folder, resolved_precision)
    semantics.require_similarity(opened.similarity_fn_name, model)
    torch_library.require_whole(opened, settings.config_folder(folder), resolved_precision)
    full = int(opened.get_embedding_dimension() or 0)
    if full < 1:
        raise NightrankError(
            "E_MODEL", "the model declares no dimension", model, "use another model"
        )
    if dimension is not None and dimension > full:
        do = f"set dimension to at most {full}"
        raise NightrankError(
            "E_MODEL", f"dimension {dimension} asked for, the model has {full}", model, do
        )
    kept = dimension or full
    cosine = opened.similarity_fn_name == "cosine"
    whole = kept == _untruncated(opened)
    limit = _limit_of_opened(model, opened, folder, max_length_tokens)
    return ResolvedModel(
        model=model,
        role="bi_encoder",
        family="sentence_transformers",
        path=str(folder),
        digest=folder_digest(folder) if not _is_builtin(model) else builtin.minilm_digest(),
        precision=resolved_precision,
        max_length_tokens=limit,
        tokenizer=utf8_name(limit),
        dimension=kept,
        # Cosine is the dot product of unit vectors: they are scaled after dimensions are dropped.
        normalize=cosine or (whole and settings.normalizes(folder)),
        query_prompt=query,
        document_prompt=document,
    )


def sequence_classifier(
    model: str, folder: Path, precision: str, max_length_tokens: int | None
) -> ResolvedModel:
    """A sequence-classification folder; see `registry.resolve_cross_encoder`.

    Raises:
        NightrankError: E_MODEL, for more than one label or a tokenizer without padding.
    """
    semantics.require_kind(folder, "cross_encoder", model)
    semantics.require_monotone(folder, model)
    if settings.modules(folder) and not settings.plain_classifier(folder):
        return _by_its_library(model, folder, precision, max_length_tokens)
    _require_one_label(_labels(folder), model)
    if not settings.plain_classifier(folder):
        return _by_its_library(model, folder, precision, max_length_tokens)
    prompt = semantics.default_prompt(folder)
    tokenizer = pretrained_tokenizer(folder)
    if tokenizer.pad_token_id is None:
        raise NightrankError(
            "E_MODEL", "the tokenizer has no padding token", model, "add pad_token to its config"
        )
    longest = positions(folder)
    stated = settings.max_seq_length(folder) or int(tokenizer.model_max_length)
    default = min(stated, longest) if stated < UNSTATED else longest
    limit = _limit(model, max_length_tokens, default, longest)
    # A prompt is part of the query's text: tokens of the query without it cannot be spliced.
    spliced = not prompt and provable_template(tokenizer, pair=True) is not None
    return ResolvedModel(
        model=model,
        role="cross_encoder",
        family="sequence_classification",
        path=str(folder),
        digest=folder_digest(folder),
        precision=resolve_precision(precision),
        max_length_tokens=limit,
        tokenizer=spliced_name(folder, limit) if spliced else utf8_name(limit),
        recommended_first_stage_weight=_recommended_weight(folder),
        query_prompt=prompt,
    )


def _by_its_library(
    model: str, folder: Path, precision: str, max_length_tokens: int | None
) -> ResolvedModel:
    """A cross-encoder that sentence-transformers runs."""
    from nightrank.models.engines import torch_library

    resolved_precision = resolve_precision(precision)
    opened = torch_library.cross_encoder(folder, resolved_precision)
    _require_one_label(int(opened.num_labels), model)
    torch_library.require_whole(opened, settings.config_folder(folder), resolved_precision)
    limit = _limit_of_opened(model, opened, folder, max_length_tokens)
    return ResolvedModel(
        model=model,
        role="cross_encoder",
        family="sentence_transformers",
        path=str(folder),
        digest=folder_digest(folder),
        precision=resolved_precision,
        max_length_tokens=limit,
        tokenizer=utf8_name(limit),
        query_prompt=semantics.default_prompt(folder),
    )


def _require_one_label(labels: int, model: str) -> None:
    if labels != 1:
        raise NightrankError(
            "E_MODEL",
            f"a cross-encoder has 1 label, this model has {labels}",
            model,
            "use a reranker; a classifier with several labels has no single score",
        )


def _limit_of_opened(model: str, opened: Any, folder: Path, configured: int | None) -> int:
    """The bound on an input of a model that sentence-transformers opened.

    Raises:
        NightrankError: E_MODEL, where the model cannot take inputs of the configured length.
    """
    stated = opened.max_seq_length
    if stated == math.inf:  # A table of token vectors: nothing is cut.
        if configured is not None:
            what = "the model takes texts of any length"
            raise NightrankError("E_MODEL", what, model, "leave out max_length_tokens")
        return UNSTATED
    has_network = (settings.config_folder(folder) / "config.json").is_file()
    longest = positions(folder) if has_network else UNSTATED
    default = int(stated) if stated is not None and stated < UNSTATED else min(longest, UNSTATED)
    return _limit(model, configured, default, max(default, longest))


def _untruncated(opened: Any) -> int:
    """The dimension before a declared `truncate_dim`."""
    with opened.truncate_embeddings(None):
        return int(opened.get_embedding_dimension())


def _recommended_weight(folder: Path) -> float:
    """The weight that `nightrank train-reranker` wrote to a model's config.json; 0 without one."""
    section = read_json(folder / "config.json").get("nightrank", {})
    return float(section.get("recommended_first_stage_weight", 0.0))


def _is_builtin(model: str) -> bool:
    """Whether the model is found in a package, and its digest with it."""
    return model.startswith("builtin:")


def _labels(folder: Path) -> int:
    """The number of a classifier's outputs; transformers takes 2 where config.json has none."""
    config = read_json(folder / "config.json")
    if "num_labels" in config:
        return int(config["num_labels"])
    names: Any = config.get("id2label") or ("LABEL_0", "LABEL_1")
    return len(names)


def positions(folder: Path) -> int:
    """The longest input that the architecture can take."""
    config = read_json(settings.config_folder(folder) / "config.json")
    positions = int(config.get("max_position_embeddings", FALLBACK_MAX_LENGTH_TOKENS))
    # RoBERTa-like models count positions from after the padding id.
    roberta = config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl")
    return positions - 2 if roberta else positions


def _limit(model: str, configured: int | None, default: int, longest: int) -> int:
    """The bound on an input: the configured one, else the model's default.

    Raises:
        NightrankError: E_MODEL, where the model cannot take inputs of the configured length.
    """
    limit = default if configured is None else configured
    if not SHORTEST_INPUT_TOKENS <= limit <= longest:
        raise NightrankError(
            "E_MODEL",
            f"max_length_tokens {limit} is outside {SHORTEST_INPUT_TOKENS} to {longest}",
            model,
            f"set it within, or leave it out for {default}",
        )
    return limit
