"""Resolves a model's name in the configuration at planning, and opens the model on a worker.

`resolve_*` runs once, at planning, and fixes everything that can change an output. `load_*` runs
on each worker, checks that the files have not changed, and opens them. Implementations that need
torch are imported inside functions, so that a run on toy models never imports it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from nightrank.errors import NightrankError
from nightrank.models import toy
from nightrank.models.folders import builtin
from nightrank.models.folders.files import folder_digest
from nightrank.models.folders.locating import ModelFolder, locate
from nightrank.models.hardware import require_precision
from nightrank.models.protocols import (
    BiEncoder,
    CrossEncoder,
    ResolvedModel,
    Role,
    Tokenizer,
)

MINILM = "builtin:minilm"
RERANKER = "builtin:reranker"
TOY_BI_ENCODER = "toy:bag-of-words"
TOY_CROSS_ENCODER = "toy:overlap"
TOY_MAX_LENGTH_TOKENS = 512


def resolve_bi_encoder(
    model: str,
    *,
    revision: str | None = None,
    precision: str = "auto",
    max_length_tokens: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    dimension: int | None = None,
    located: ModelFolder | None = None,
) -> ResolvedModel:
    """Resolves a bi-encoder: fixes everything that can change its vectors.

    Args:
        model: builtin:minilm, toy:bag-of-words, a folder, or a hub id.
        revision: the 40-hex commit of a hub id.
        precision: auto, exact (fp32) or bf16.
        max_length_tokens: bound on an input; None takes the model's.
        query_prompt: put before queries; None takes the model's own.
        document_prompt: put before documents; None takes the model's own.
        dimension: leading dimensions to keep (Matryoshka models); None keeps all.
        located: the folder of its files; None finds it by the model's name.

    Raises:
        NightrankError: E_MODEL, where the model cannot be found or used.
    """
    if model == TOY_BI_ENCODER:
        _no_prompts(model, query_prompt, document_prompt)
        resolved = _toy(model, "bi_encoder", precision, max_length_tokens)
        return replace(resolved, dimension=dimension or toy.DEFAULT_DIMENSION, normalize=True)
    _require_role_of_name(model, "bi_encoder")
    from nightrank.models import resolving

    if model == MINILM and not query_prompt and not document_prompt and dimension is None:
        return resolving.minilm(model, precision, max_length_tokens)
    if model == MINILM:
        folder, commit = builtin.minilm_folder(), ""
    else:
        folder, commit = located or locate(model, revision)
    prompts = (query_prompt, document_prompt)
    resolved = resolving.sentence_transformer(
        model, folder, precision, max_length_tokens, prompts, dimension
    )
    return replace(resolved, revision=commit)


def resolve_cross_encoder(
    model: str,
    *,
    revision: str | None = None,
    precision: str = "auto",
    max_length_tokens: int | None = None,
    located: ModelFolder | None = None,
) -> ResolvedModel:
    """Resolves a cross-encoder: fixes everything that can change its scores.

    Args:
        model: builtin:reranker, toy:overlap, a folder, or a hub id.
        revision: the 40-hex commit of a hub id.
        precision: auto, exact (fp32) or bf16.
        max_length_tokens: bound on a pair; None takes the model's.
        located: the folder of its files; None finds it by the model's name.

    Raises:
        NightrankError: E_MODEL, where the model cannot be found or used.
    """
    if model == TOY_CROSS_ENCODER:
        return _toy(model, "cross_encoder", precision, max_length_tokens)
    _require_role_of_name(model, "cross_encoder")
    from nightrank.models import resolving

    if model == RERANKER:
        return resolving.reranker(model, builtin.RERANKER_FOLDER, precision, max_length_tokens)
    folder, commit = located or locate(model, revision)
    if (folder / builtin.DELTA).exists():
        resolved = resolving.reranker(model, folder, precision, max_length_tokens)
        return replace(resolved, revision=commit)
    resolved = resolving.sequence_classifier(model, folder, precision, max_length_tokens)
    return replace(resolved, revision=commit)


def is_bundled(model: str) -> bool:
    """Whether every node has the model's files from installation, or needs none."""
    return model.startswith(("builtin:", "toy:"))


def model_digest(folder: Path) -> str:
    """The digest of the model in a folder, as a plan has it."""
    if (folder / builtin.DELTA).exists():
        return builtin.reranker_digest(folder)
    return folder_digest(folder)


def load_tokenizer(resolved: ResolvedModel) -> Tokenizer:
    """The tokenizer of a model's stored tokens.

    Raises:
        NightrankError: E_MODEL, where its files are missing or changed.
    """
    if resolved.family == "toy":
        return toy.ToyTokenizer()
    from nightrank.models.text import tokenizers as texts

    if resolved.tokenizer.startswith(texts.UTF8):
        return texts.Utf8Tokenizer(int(resolved.tokenizer.rpartition(":")[2]))
    if resolved.family == "minilm":
        return texts.minilm_tokenizer()
    folder = _verified_folder(resolved)
    cap = texts.cap_tokens(resolved.max_length_tokens)
    return texts.SplicedTokenizer(texts.pretrained_tokenizer(folder).backend_tokenizer, cap)


def load_bi_encoder(resolved: ResolvedModel, threads: int) -> BiEncoder:
    """Opens a bi-encoder in this process.

    Args:
        resolved: the model as planned.
        threads: CPU threads that it may use.

    Raises:
        NightrankError: E_MODEL, where its files are missing or changed, or this machine lacks its
            precision.
    """
    _require_role(resolved, "bi_encoder")
    if resolved.family == "toy":
        return toy.ToyBiEncoder(resolved.dimension, resolved.max_length_tokens)
    require_precision(resolved.precision, resolved.model)
    from nightrank.models.engines.bi_encoders import open_minilm, open_sentence_transformer

    folder = _verified_folder(resolved)
    opener = open_minilm if resolved.family == "minilm" else open_sentence_transformer
    return opener(resolved, folder, threads)


def load_cross_encoder(resolved: ResolvedModel, threads: int) -> CrossEncoder:
    """Opens a cross-encoder in this process.

    Args:
        resolved: the model as planned.
        threads: CPU threads that it may use.

    Raises:
        NightrankError: E_MODEL, where its files are missing or changed, or this machine lacks its
            precision.
    """
    _require_role(resolved, "cross_encoder")
    if resolved.family == "toy":
        return toy.ToyCrossEncoder(resolved.max_length_tokens)
    require_precision(resolved.precision, resolved.model)
    from nightrank.models.engines import cross_encoders

    folder = _verified_folder(resolved)
    if resolved.family == "minilm":
        return cross_encoders.open_builtin(resolved, builtin.minilm_folder(), folder, threads)
    if resolved.family == "sentence_transformers":
        return cross_encoders.open_sentence_transformer(resolved, folder, threads)
    return cross_encoders.open_classifier(resolved, folder, threads)


def _verified_folder(resolved: ResolvedModel) -> Path:
    """The folder on this machine, after a check of its digest; built-in ones are in packages."""
    if resolved.model == MINILM:
        folder, digest = builtin.minilm_folder(), builtin.minilm_digest()
    elif resolved.family == "minilm":
        is_builtin = resolved.model == RERANKER
        folder = builtin.RERANKER_FOLDER if is_builtin else Path(resolved.path)
        builtin.minilm_folder()
        digest = builtin.reranker_digest(builtin.reranker_folder(folder))
    else:
        folder = Path(resolved.path)
        digest = folder_digest(folder) if folder.is_dir() else "no such folder"
    if digest != resolved.digest:
        raise NightrankError(
            "E_MODEL",
            f"planned with files of digest {resolved.digest[:16]}, found {digest[:16]}",
            f"{resolved.model}, {folder}",
            "restore the files, or plan again",
        )
    return folder


def _toy(model: str, role: Role, precision: str, max_length_tokens: int | None) -> ResolvedModel:
    """A toy model; it computes in one precision only."""
    if precision not in ("auto", "exact"):
        do = "use precision auto or exact"
        raise NightrankError("E_MODEL", f"no precision {precision!r} for a toy", model, do)
    return ResolvedModel(
        model=model,
        role=role,
        family="toy",
        path="",
        digest=f"{model}-1",
        precision="fp32",
        max_length_tokens=max_length_tokens or TOY_MAX_LENGTH_TOKENS,
        tokenizer=toy.TOKENIZER,
    )


def _no_prompts(model: str, *prompts: str | None) -> None:
    """Refuses prompts for a model that takes none."""
    if any(prompts):
        raise NightrankError("E_MODEL", "this model takes no prompts", model, "remove the prompts")


def _require_role_of_name(model: str, role: Role) -> None:
    """Refuses an unknown built-in or toy name, and one of the other role."""
    known = {
        "bi_encoder": (MINILM, TOY_BI_ENCODER),
        "cross_encoder": (RERANKER, TOY_CROSS_ENCODER),
    }[role]
    if model.startswith(("builtin:", "toy:")) and model not in known:
        raise NightrankError(
            "E_MODEL",
            f"{model} is no {role.replace('_', '-')}",
            "",
            f"use {known[0]}, {known[1]}, a folder, or owner/name with a revision",
        )


def _require_role(resolved: ResolvedModel, role: Role) -> None:
    """Refuses to open a model in another role than planned."""
    if resolved.role != role:
        raise NightrankError(
            "E_MODEL",
            f"planned as {resolved.role}, opened as {role}",
            resolved.model,
            "report this",
        )
