"""Describes a resolved model, and compares its outputs with those of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nightrank.models.folders import semantics, settings
from nightrank.models.folders.files import model_files, read_json
from nightrank.models.protocols import BiEncoder, CrossEncoder, ResolvedModel
from nightrank.models.registry import load_bi_encoder, load_cross_encoder, load_tokenizer

TEXTS = ("what is a bi-encoder?", "A bi-encoder maps texts to vectors.", "Rivers flow to the sea.")
# Relative: the rounding of two orders of summation, or of bfloat16's 8 bits through all layers.
TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}
# The model is loaded twice: one of a billion parameters in bfloat16 is still compared.
MAX_BYTES = 3 << 30


@dataclass(frozen=True)
class Difference:
    """How far outputs differ from those of sentence-transformers.

    Attributes:
        largest: the largest difference of a score, or of a vector's number, as a share of the
            largest output.
        tolerance: the share that rounding explains.
    """

    largest: float
    tolerance: float


def describe(model: ResolvedModel, folder: Path) -> str:
    """What a model's outputs mean: similarity or score, pooling, prompts, and where it cuts.

    Args:
        model: resolved.
        folder: its files; not read for built-in models and toys.
    """
    cut = f"cut at {model.max_length_tokens:,} tokens"
    if model.role == "cross_encoder":
        parts = [_score(model, folder), f"pairs {cut}, the longer text first"]
        parts.append(f"queries {_prompt(model.query_prompt)}")
        if weight := model.recommended_first_stage_weight:
            parts.append(f"recommends a first-stage weight of {weight:g}")
        return "; ".join(parts)
    compared = "cosine" if model.normalize else "dot product"
    if model.family == "sentence_transformers" and not _declares_similarity(folder):
        compared += " (none is declared: sentence-transformers' default)"
    parts = [f"similarity {compared}", _modules(model, folder), f"{model.dimension} dimensions"]
    parts.append(f"queries {_prompt(model.query_prompt)}")
    parts.append(f"documents {_prompt(model.document_prompt)}")
    return "; ".join([*parts, f"texts {cut}"])


def as_stored(model: ResolvedModel, target: Path) -> ResolvedModel:
    """The model with a path that has only the files that the lake would store.

    Args:
        model: of a folder.
        target: an empty folder, which gets symbolic links.
    """
    folder = Path(model.path)
    for name in model_files(folder):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(folder / name)
    return replace(model, path=str(target))


def compare_outputs(
    model: ResolvedModel, folder: Path, prompts: tuple[str | None, str | None], threads: int
) -> Difference | None:
    """Compares two scores, or vectors of a query and two documents, with sentence-transformers.

    Args:
        model: resolved; opened from its path.
        folder: what sentence-transformers opens.
        prompts: the configuration's for queries and documents; None takes the folder's.
        threads: CPU threads.

    Returns:
        None for a model that is not one of sentence-transformers, or is too large to load twice.
    """
    size = sum((folder / n).stat().st_size for n in model_files(folder) if n.endswith("tensors"))
    if model.family not in ("sentence_transformers", "sequence_classification"):
        return None
    if size > MAX_BYTES:
        return None
    if model.role == "bi_encoder":
        ours, theirs = _vectors(model, folder, prompts, threads)
    else:
        ours, theirs = _scores(model, folder, threads)
    scale = max(float(np.abs(theirs).max()), 1e-6)
    return Difference(float(np.abs(ours - theirs).max()) / scale, TOLERANCE[model.precision])


def _scores(
    model: ResolvedModel, folder: Path, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from nightrank.models.engines import torch_library

    tokenizer = load_tokenizer(model)
    pairs = np.array([[0, 0], [0, 1]], np.int32)
    opened: CrossEncoder = load_cross_encoder(model, threads)
    ours = opened.score(tokenizer(TEXTS[:1]), tokenizer(TEXTS[1:]), pairs)
    library = torch_library.cross_encoder(folder, model.precision)
    torch_library.cut_at(library, model.max_length_tokens)
    texts = [(TEXTS[0], text) for text in TEXTS[1:]]
    theirs: NDArray[np.float32] = library.predict(
        texts, activation_fn=torch_library.raw, show_progress_bar=False
    )
    return ours, theirs


def _vectors(
    model: ResolvedModel, folder: Path, prompts: tuple[str | None, str | None], threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    from nightrank.models.engines import torch_library

    tokenizer = load_tokenizer(model)
    opened: BiEncoder = load_bi_encoder(model, threads)
    ours = [opened.encode(tokenizer(TEXTS[:1]), "query")]
    ours.append(opened.encode(tokenizer(TEXTS[1:]), "document"))
    library = torch_library.sentence_transformer(folder, model.precision)
    torch_library.cut_at(library, model.max_length_tokens)
    options = {
        "truncate_dim": model.dimension,
        "normalize_embeddings": library.similarity_fn_name == "cosine",
        "show_progress_bar": False,
    }
    theirs = [
        library.encode_query(list(TEXTS[:1]), prompt=prompts[0], **options),
        library.encode_document(list(TEXTS[1:]), prompt=prompts[1], **options),
    ]
    return np.concatenate(ours), np.concatenate(theirs).astype(np.float32)


def _declares_similarity(folder: Path) -> bool:
    return settings.declared(folder).get("similarity_fn_name") is not None


def _score(model: ResolvedModel, folder: Path) -> str:
    if model.family in ("toy", "minilm"):
        return "scores are the model's own, without an activation"
    activation = semantics.activation(folder).rpartition(".")[2]
    shown = f", of which sentence-transformers shows the {activation}"
    return "one label; scores are its logits" + ("" if activation == "Identity" else shown)


def _modules(model: ResolvedModel, folder: Path) -> str:
    if model.family == "toy":
        return "counts of words"
    if model.family == "minilm":
        return "mean of the tokens"
    names = []
    for module in settings.modules(folder):
        config = folder / module.path / "config.json"
        modes = read_json(config).get("pooling_mode") if module.name == "Pooling" else None
        mean = settings.pools_by_mean(folder) if module.name == "Pooling" else None
        pooling = {True: "mean", False: "cls", None: ""}[mean] if modes is None else modes
        pooling = pooling if isinstance(pooling, str) else " and ".join(pooling)
        names.append(f"{module.name} ({pooling})" if pooling else module.name)
    return " > ".join(names) or "Transformer > Pooling, sentence-transformers' defaults"


def _prompt(text: str) -> str:
    return f"with the prompt {text!r:.120}" if text else "without a prompt"
