"""A BERT-like encoder as plain arrays, read from a model's folder without torch.

BERT, RoBERTa and XLM-RoBERTa are one network: they differ in the first position, in the number of
token types, and in the tensor names of a classifier's head. For any other network (another
activation, relative positions, several labels, weights in other forms) the functions return None,
and torch runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import deserialize

from nightrank.models.folders.files import read_json

Float32 = NDArray[np.float32]

WEIGHTS = "model.safetensors"
FLOATING = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
KINDS = ("bert", "roberta", "xlm-roberta")
# A classifier's head: tensors of the hidden and of the last layer.
HEADS = {
    "BertForSequenceClassification": ("bert.pooler.dense", "classifier"),
    "RobertaForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
    "XLMRobertaForSequenceClassification": ("classifier.dense", "classifier.out_proj"),
}


@dataclass(frozen=True, eq=False)
class Bert:
    """An encoder without its head.

    Attributes:
        tensors: float32 by their names in the published file, without the model's prefix.
        layers: number of layers.
        heads: attention heads of a layer.
        epsilon: of the layer norms.
        first_position: the row of the position table for a text's first token.
    """

    tensors: dict[str, Float32]
    layers: int
    heads: int
    epsilon: float
    first_position: int

    @property
    def hidden(self) -> int:
        """Width of a token's vector."""
        return int(self.tensors["embeddings.LayerNorm.weight"].shape[0])


def read_tensors(file: Path) -> dict[str, Float32]:
    """All floating tensors of a safetensors file, as float32; numpy has no bfloat16."""
    tensors: dict[str, Float32] = {}
    parts: Any = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    for name, part in parts:
        if part["dtype"] == "BF16":
            # The upper half of a float32.
            half = np.frombuffer(part["data"], np.uint16).astype(np.uint32)
            plain = (half << 16).view(np.float32)
        elif part["dtype"] in FLOATING:
            plain = np.frombuffer(part["data"], FLOATING[part["dtype"]]).astype(np.float32)
        else:
            continue
        tensors[name] = plain.reshape(part["shape"])
    return tensors


def read_encoder(folder: Path, tensors: dict[str, Float32] | None = None) -> Bert | None:
    """The encoder of a folder, or None where it is another network.

    Args:
        folder: with config.json and, without `tensors`, one model.safetensors.
        tensors: tensors to use instead of the folder's.
    """
    config = read_json(folder / "config.json")
    if not _is_plain(config):
        return None
    if tensors is None:
        if not (folder / WEIGHTS).is_file():
            return None
        tensors = read_tensors(folder / WEIGHTS)
    prefix = next((p for p in ("", "bert.", "roberta.") if f"{p}{_WORDS}" in tensors), None)
    if prefix is None:
        return None
    plain = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return Bert(
        plain,
        int(config["num_hidden_layers"]),
        int(config["num_attention_heads"]),
        float(config.get("layer_norm_eps", 1e-12)),
        first_position(config),
    )


def first_position(config: dict[str, Any]) -> int:
    """The row of the position table for a text's first token: in RoBERTa the one after padding."""
    return 0 if config["model_type"] == "bert" else int(config.get("pad_token_id", 1)) + 1


def read_classifier(folder: Path) -> tuple[Bert, list[tuple[Float32, Float32]]] | None:
    """An encoder and its one-label head over the first token, or None for another network.

    Returns:
        The encoder, and weight [out, in] and bias [out] of the head's two layers, with a tanh
        between them.
    """
    architecture = (read_json(folder / "config.json").get("architectures") or [""])[0]
    if architecture not in HEADS or not (folder / WEIGHTS).is_file():
        return None
    tensors = read_tensors(folder / WEIGHTS)
    encoder = read_encoder(folder, tensors)
    names = HEADS[architecture]
    if encoder is None or any(f"{name}.weight" not in tensors for name in names):
        return None
    return encoder, [(tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in names]


_WORDS = "embeddings.word_embeddings.weight"


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether `openvino_graph` builds everything that a config.json declares."""
    return (
        config.get("model_type") in KINDS
        and config.get("hidden_act", "gelu") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
        and not config.get("add_cross_attention", False)
        and not config.get("quantization_config")
    )
