"""Operations and bytes that a model needs, from its config.json alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.models.folders import builtin
from nightrank.models.folders.files import read_json
from nightrank.models.folders.settings import config_folder
from nightrank.models.protocols import ResolvedModel

# (hidden size up to, share of the vendor's peak), measured on an H100 (benchmarks/results/gpu.md):
# MiniLM 384, bge-reranker-v2-m3 1024, 4 B models 2560.
EFFICIENCY = ((512, 0.26), (1280, 0.5), (1 << 30, 0.58))
TOKEN_BUDGET = 65_536  # Padded tokens of a batch on a GPU (`torch_engine`).
CUDA_BYTES = 1 << 30  # The CUDA context, and what torch allocates for itself.
# Operations per second of linear layers, roughly: the built-in reranker in bf16 on one core of a
# Zen 4, and MiniLM on an H100, which reaches twice as much with larger models.
CORE_FLOPS, GPU_FLOPS = 1.77e11, 2e14
MINILM_FLOPS = 2.124e7  # Per token, of the linear layers.


@dataclass(frozen=True)
class Network:
    """A transformer's shape.

    Attributes:
        layers: blocks.
        hidden: width.
        projections: weights of a block's attention and feed-forward matrices.
        attention: width of all heads together.
        intermediate: width of the feed-forward part.
        embeddings: weights that are looked up, not multiplied.
    """

    layers: int
    hidden: int
    projections: int
    attention: int
    intermediate: int
    embeddings: int

    def flops(self, lengths: NDArray[np.int64]) -> float:
        """Operations for inputs of these lengths, with the last layer for every token.

        Args:
            lengths: int64 [n], tokens.
        """
        lengths = np.asarray(lengths, dtype=np.float64)
        linear = 2.0 * self.projections * self.layers * lengths.sum()
        return float(linear + 4.0 * self.attention * self.layers * (lengths**2).sum())

    def weights(self, precision: str) -> int:
        """Bytes of the weights."""
        width = 2 if precision == "bf16" else 4
        return width * (self.projections * self.layers + self.embeddings)

    def gpu_bytes(self, precision: str) -> int:
        """Bytes on a GPU: the weights, the activations of a full batch, and CUDA's own memory."""
        width = 2 if precision == "bf16" else 4
        activations = TOKEN_BUDGET * width * (6 * self.hidden + 2 * self.intermediate)
        return self.weights(precision) + activations + CUDA_BYTES

    @property
    def efficiency(self) -> float:
        """The share of a GPU's peak that this network reaches."""
        return next(share for width, share in EFFICIENCY if self.hidden <= width)


def network_of(model: ResolvedModel) -> Network | None:
    """The shape of a resolved model; None for toys and for tables of token vectors.

    Raises:
        NightrankError: E_MODEL where config.json has no layers, width or heads.
    """
    if model.family == "toy":
        return None
    minilm = model.family == "minilm"
    folder = builtin.minilm_folder() if minilm else Path(model.path)
    config = config_folder(folder) / "config.json"
    tabular = model.family == "sentence_transformers" and not config.is_file()
    return None if tabular else read_network(read_json(config), model.model)


def read_network(config: dict[str, Any], where: str) -> Network:
    """The shape that a config.json describes, of a BERT-like or a causal model.

    Args:
        config: the parsed config.json.
        where: the model's name, for errors.

    Raises:
        NightrankError: E_MODEL where it has no layers, width or heads.
    """
    config = config.get("text_config") or config
    try:
        layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
        inner, heads = int(config["intermediate_size"]), int(config["num_attention_heads"])
    except (KeyError, TypeError, ValueError) as error:
        do = "plan with a model whose config.json has layers, width and heads"
        what = f"config.json has no {error}" if isinstance(error, KeyError) else str(error)
        raise NightrankError("E_MODEL", what, where, do) from None
    width = int(config.get("head_dim") or hidden // heads)
    shared = int(config.get("num_key_value_heads") or heads)
    # Current causal models gate their feed-forward part: three matrices where BERT has two.
    gated = "num_key_value_heads" in config or config.get("model_type") == "modernbert"
    matrices = 3 if gated else 2
    projections = hidden * width * (2 * heads + 2 * shared) + matrices * hidden * inner
    embeddings = int(config.get("vocab_size", 0)) * hidden
    return Network(layers, hidden, projections, heads * width, inner, embeddings)


def minute_tokens(model: ResolvedModel, on_gpu: bool) -> int:
    """Tokens that a core or a GPU processes in a minute, roughly.

    A model whose config.json describes no network counts as the built-in one.
    """
    try:
        network = network_of(model)
    except NightrankError:
        network = None
    flops = 2.0 * network.projections * network.layers if network else MINILM_FLOPS
    return max(1, round(60 * (GPU_FLOPS if on_gpu else CORE_FLOPS) / flops))
