"""From a model's name in the configuration to a record at planning, and to a model on a worker.

`resolve_*` runs once, at planning, and fixes everything that can change an output. `load_*` runs
on each worker, checks that the files are still those, and opens them. Implementations that need
torch are imported inside functions, so that a run on toy models never pays for it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from nightrank.errors import NightrankError
from nightrank.models import toy
from nightrank.models.folders import builtin
from nightrank.models.folders.files import folder_digest
from nightrank.models.folders.locating import locate
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
# The folder of a model's files, and its hub commit ("" for a plain folder).
Found: TypeAlias = tuple[Path, str]


def resolve_bi_encoder(
    model: str,
    *,
    revision: str | None = None,
    precision: str = "auto",
    max_length_tokens: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    dimension: int | None = None,
    found: Found | None = None,
) -> ResolvedModel:
    """Fixes a bi-encoder.

    Args:
        model: builtin:minilm, toy:bag-of-words, a folder, or a hub id.
        revision: the 40-hex commit of a hub id.
        precision: auto, exact (fp32) or bf16.
        max_length_tokens: bound on an input; None takes the model's.
        query_prompt: put before queries; None takes the model's own.
        document_prompt: put before documents; None takes the model's own.
        dimension: keep so many leading dimensions (Matryoshka models); None keeps all.
        found: where its files are known to lie; None looks for them by name.

    Raises:
        NightrankError: E_MODEL.
    """
    if model == TOY_BI_ENCODER:
        _no_prompts(model, query_prompt, document_prompt)
        resolved = _toy(model, "bi_encoder", precision, max_length_tokens)
        return replace(resolved, dimension=dimension or toy.DEFAULT_DIMENSION, normalize=True)
    _right_role(model, "bi_encoder")
    from nightrank.models import resolving

    if model == MINILM and not query_prompt and not document_prompt and dimension is None:
        return resolving.minilm(model, precision, max_length_tokens)
    if model == MINILM:
        folder, commit = builtin.minilm_folder(), ""
    else:
        folder, commit = found or locate(model, revision)
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
    found: Found | None = None,
) -> ResolvedModel:
    """Fixes a cross-encoder.

    Args:
        model: builtin:reranker, toy:overlap, a folder, or a hub id.
        revision: the 40-hex commit of a hub id.
        precision: auto, exact (fp32) or bf16.
        max_length_tokens: bound on a pair; None takes the model's.
        found: where its files are known to lie; None looks for them by name.

    Raises:
        NightrankError: E_MODEL.
    """
    if model == TOY_CROSS_ENCODER:
        return _toy(model, "cross_encoder", precision, max_length_tokens)
    _right_role(model, "cross_encoder")
    from nightrank.models import resolving

    if model == RERANKER:
        return resolving.reranker(model, builtin.RERANKER_FOLDER, precision, max_length_tokens)
    folder, commit = found or locate(model, revision)
    if (folder / builtin.DELTA).exists():
        resolved = resolving.reranker(model, folder, precision, max_length_tokens)
        return replace(resolved, revision=commit)
    resolved = resolving.sequence_classifier(model, folder, precision, max_length_tokens)
    return replace(resolved, revision=commit)


def comes_with_the_program(model: str) -> bool:
    """Whether every node that runs this program has the model's files, or needs none."""
    return model.startswith(("builtin:", "toy:"))


def digest_of(folder: Path) -> str:
    """The digest that the model in a folder is planned with."""
    if (folder / builtin.DELTA).exists():
        return builtin.reranker_digest(folder)
    return folder_digest(folder)


def load_tokenizer(resolved: ResolvedModel) -> Tokenizer:
    """The tokenizer whose tokens the model takes.

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
    """Opens a bi-encoder on this worker.

    Args:
        resolved: what planning fixed.
        threads: CPU threads that it may use.

    Raises:
        NightrankError: E_MODEL, where files are missing or changed, or the precision cannot be.
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
    """Opens a cross-encoder on this worker.

    Args:
        resolved: what planning fixed.
        threads: CPU threads that it may use.

    Raises:
        NightrankError: E_MODEL, where files are missing or changed, or the precision cannot be.
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
    """The folder on this machine, its digest checked; built-in models are found by package."""
    if resolved.model == MINILM:
        folder, found = builtin.minilm_folder(), builtin.minilm_digest()
    elif resolved.family == "minilm":
        named = resolved.model == RERANKER
        folder = builtin.RERANKER_FOLDER if named else Path(resolved.path)
        builtin.minilm_folder()
        found = builtin.reranker_digest(builtin.reranker_folder(folder))
    else:
        folder = Path(resolved.path)
        found = folder_digest(folder) if folder.is_dir() else "no such folder"
    if found != resolved.digest:
        raise NightrankError(
            "E_MODEL",
            f"planned with files of digest {resolved.digest[:16]}, found {found[:16]}",
            f"{resolved.model}, {folder}",
            "restore the files, or plan again",
        )
    return folder


def _toy(model: str, role: Role, precision: str, max_length_tokens: int | None) -> ResolvedModel:
    """A toy model; its one arithmetic serves every precision but bf16."""
    if precision not in ("auto", "exact"):
        do = "use precision auto or exact"
        raise NightrankError("E_MODEL", f"no precision {precision!r} for {model}", "", do)
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
    """Refuses prompts where the model has no use for them."""
    if any(prompts):
        raise NightrankError("E_MODEL", "this model takes no prompts", model, "remove the prompts")


def _right_role(model: str, role: Role) -> None:
    """Refuses a built-in or toy name of the other role, or an unknown one."""
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
    """Refuses to open a model as what it was not planned as."""
    if resolved.role != role:
        raise NightrankError(
            "E_MODEL", f"planned as {resolved.role}, opened as {role}", resolved.model, ""
        )
