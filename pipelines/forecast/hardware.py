"""Known GPUs, and what a model asks of any: operations and bytes, from its config.json alone.

Times for a GPU that is not here are peak x efficiency. Peaks are the makers' for dense bfloat16.
The efficiencies are assumptions, by width: narrow networks leave a GPU waiting for its memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import NightrankError
from pipelines.models import builtin
from pipelines.models.folders import read_json
from pipelines.models.protocols import ResolvedModel

GIB = 1 << 30
# (hidden size up to, share of the peak): MiniLM 384, bge-reranker-v2-m3 1024, 4 B models 2560.
EFFICIENCY = ((512, 0.3), (1280, 0.5), (1 << 30, 0.55))
SEARCH_EFFICIENCY = 0.3  # Exact search is a product and a selection of the best of every query.
TOKEN_BUDGET = 65_536  # Padded tokens of a batch on a GPU (`models/torch_engine.py`).
CUDA_BYTES = 1 * GIB  # A CUDA context and torch's own.


@dataclass(frozen=True)
class Device:
    """A GPU: dense TFLOP/s in bfloat16 and float32, and its memory in bytes."""

    name: str
    bf16: float
    fp32: float
    memory: int

    def flops(self, precision: str) -> float:
        """Peak operations a second."""
        return (self.bf16 if precision == "bf16" else self.fp32) * 1e12


DEVICES = {
    device.name: device
    for device in (
        Device("A10G", 70, 31.5, 24 * GIB),
        Device("L4", 121, 30.3, 24 * GIB),
        Device("L40S", 362, 91.6, 48 * GIB),
        Device("A100", 312, 19.5, 80 * GIB),
        Device("H100", 989, 67, 80 * GIB),
        Device("H200", 989, 67, 141 * GIB),
    )
}


def device_named(name: str) -> Device:
    """A known GPU.

    Raises:
        NightrankError: E_USAGE for another name.
    """
    if name.upper() not in DEVICES:
        do = f"choose one of {', '.join(DEVICES)}"
        raise NightrankError("E_USAGE", f"--device {name}: not in the table", "", do)
    return DEVICES[name.upper()]


@dataclass(frozen=True)
class Network:
    """A transformer's shape.

    Attributes:
        layers: blocks.
        hidden: width.
        projections: weights of a block's attention and feed-forward matrices.
        attention: width of all heads together.
        intermediate: width of the feed-forward part.
        embeddings: weights that are looked up and not multiplied.
    """

    layers: int
    hidden: int
    projections: int
    attention: int
    intermediate: int
    embeddings: int

    def flops(self, lengths: NDArray[np.int64]) -> float:
        """Operations for inputs of these lengths (int64 [n], tokens), last layer in full."""
        lengths = np.asarray(lengths, dtype=np.float64)
        linear = 2.0 * self.projections * self.layers * lengths.sum()
        return float(linear + 4.0 * self.attention * self.layers * (lengths**2).sum())

    def weights(self, precision: str) -> int:
        """Bytes of the weights."""
        width = 2 if precision == "bf16" else 4
        return width * (self.projections * self.layers + self.embeddings)

    def gpu_bytes(self, precision: str) -> int:
        """Weights, a full batch's activations and CUDA's own."""
        width = 2 if precision == "bf16" else 4
        held = TOKEN_BUDGET * width * (6 * self.hidden + 2 * self.intermediate)
        return self.weights(precision) + held + CUDA_BYTES

    @property
    def efficiency(self) -> float:
        """The share of a GPU's peak that is counted with."""
        return next(share for width, share in EFFICIENCY if self.hidden <= width)


def network_of(model: ResolvedModel) -> Network | None:
    """The shape of a resolved model; None for toys.

    Raises:
        NightrankError: E_MODEL where config.json names no shape.
    """
    if model.family == "toy":
        return None
    minilm = model.family == "minilm"
    folder = builtin.minilm_folder() if minilm else Path(model.path)
    return read_network(read_json(folder / "config.json"), model.model)


def read_network(config: dict[str, Any], where: str) -> Network:
    """The shape that a config.json describes: BERT and its kin, or a causal model.

    Raises:
        NightrankError: E_MODEL.
    """
    config = config.get("text_config", config)
    try:
        layers, hidden = int(config["num_hidden_layers"]), int(config["hidden_size"])
        inner, heads = int(config["intermediate_size"]), int(config["num_attention_heads"])
    except KeyError as missing:
        do = "plan with a model whose config.json names layers, width and heads"
        what = f"config.json names no {missing}"
        raise NightrankError("E_MODEL", what, where, do) from None
    width = int(config.get("head_dim") or hidden // heads)
    shared = int(config.get("num_key_value_heads") or heads)
    # Causal models of today gate their feed-forward part: three matrices where BERT has two.
    gated = "num_key_value_heads" in config or config.get("model_type") == "modernbert"
    matrices = 3 if gated else 2
    projections = hidden * width * (2 * heads + 2 * shared) + matrices * hidden * inner
    embeddings = int(config.get("vocab_size", 0)) * hidden
    return Network(layers, hidden, projections, heads * width, inner, embeddings)
