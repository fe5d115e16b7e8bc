"""The built-in reranker's tensors: MiniLM's published ones, plus a trained difference.

The network takes the published encoder as it is, and the published pooler as the initial [CLS]
transform of its head. Imports no torch: inference on a CPU uses the arrays, training and the GPU
load them into a network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nightrank.models.engines.bert import WEIGHTS, Float32, read_tensors
from nightrank.models.folders.builtin import DELTA, read_reranker_config

DOWN, UP, PLUS = ".down", ".up", ".plus"
ENCODER = "encoder."
POOLER = "pooler.dense."
INITIAL_LOG_SCALE = 3.0  # exp(3) = 20: cosines differ by hundredths, a softmax needs units


def initial_tensors(base: Path) -> dict[str, Float32]:
    """The untrained network's tensors by the names of `interaction`, float32.

    Args:
        base: folder of the published bi-encoder.
    """
    tensors: dict[str, Float32] = {}
    for name, tensor in read_tensors(base / WEIGHTS).items():
        if name.startswith(POOLER):
            tensors[f"transform.{name.removeprefix(POOLER)}"] = tensor
        else:
            tensors[f"{ENCODER}{name}"] = tensor
    width = len(tensors["transform.bias"])
    tensors["cls_weight"] = np.zeros(width, np.float32)
    tensors["importance"] = np.zeros(width, np.float32)
    tensors["log_scale"] = np.array(INITIAL_LOG_SCALE, np.float32)
    return tensors


def trained_tensors(base: Path, delta: Path) -> dict[str, Float32]:
    """The trained network's tensors.

    Args:
        base: folder of the published bi-encoder.
        delta: folder of the difference.
    """
    tensors = initial_tensors(base)
    merge_delta(tensors, read_tensors(delta / DELTA), read_reranker_config(delta).scale)
    return tensors


def encoder_tensors(tensors: dict[str, Float32]) -> dict[str, Float32]:
    """The encoder's tensors, by their published names."""
    return {n.removeprefix(ENCODER): t for n, t in tensors.items() if n.startswith(ENCODER)}


def merge_delta(tensors: dict[str, Float32], delta: dict[str, Float32], scale: float) -> None:
    """Adds a difference, in place and in float32.

    Args:
        tensors: the initial network's.
        delta: from `low_rank.export_delta`: ``<layer>.up`` and ``.down`` for linear layers,
            ``<tensor>.plus`` for whole tensors.
        scale: the factor the difference was trained with.

    Raises:
        KeyError: the difference names a tensor that the network lacks.
    """
    for name, tensor in delta.items():
        if name.endswith(PLUS):
            whole = name.removesuffix(PLUS)
            # The sum of two arrays without axes is a scalar.
            tensors[whole] = np.asarray(tensors[whole] + tensor)
        elif name.endswith(UP):
            layer = name.removesuffix(UP)
            # Not by BLAS, whose sums depend on the number of threads: with OMP_NUM_THREADS=1, as in
            # Ray's workers, 73 of 80 scores differed in their last bits from those of one process.
            product = np.einsum("ik,kj->ij", tensor, delta[layer + DOWN])
            tensors[f"{layer}.weight"] = tensors[f"{layer}.weight"] + np.float32(scale) * product
