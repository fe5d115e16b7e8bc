"""Models opened with sentence-transformers, which runs what no engine implements."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nightrank.models.engines.torch_models import DTYPES, cannot_load, require_no_missing
from nightrank.models.hardware import choose_device
from nightrank.models.protocols import Precision
from nightrank.models.text.inputs import longer_than

# It warns about a default prompt, which is applied.
logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


def sentence_transformer(folder: Path, precision: Precision) -> Any:
    """A folder's `SentenceTransformer`.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    return _open(SentenceTransformer, folder, precision)


def cross_encoder(folder: Path, precision: Precision) -> Any:
    """A folder's `CrossEncoder`.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    from sentence_transformers import CrossEncoder

    return _open(CrossEncoder, folder, precision)


def _open(kind: Any, folder: Path, precision: Precision) -> Any:
    try:
        model = kind(
            str(folder),
            device=str(choose_device()),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": DTYPES[precision], "use_safetensors": True},
        )
    except Exception as error:
        raise cannot_load(folder, error) from None
    return model


def require_whole(opened: Any, folder: Path, precision: Precision) -> None:
    """Refuses a network with missing weights: transformers initialises them at random.

    Args:
        opened: by `sentence_transformer` or `cross_encoder`, which do not report it.
        folder: of its network's files.
        precision: of the weights.

    Raises:
        NightrankError: E_MODEL.
    """
    network = opened.transformers_model
    if network is None:
        return
    try:
        _, loading_info = type(network).from_pretrained(
            str(folder),
            dtype=DTYPES[precision],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception:  # sentence-transformers builds some networks, as T5Gemma, from parts.
        return
    require_no_missing(loading_info, folder)


def cut_at(model: Any, max_length_tokens: int) -> None:
    """Sets the limit of sentence-transformers on inputs; a model without a limit stays without."""
    if model.max_seq_length != math.inf:
        model.max_seq_length = max_length_tokens


def cut_by(model: Any, task: str, texts: list[str], seconds: list[str] | None = None) -> int:
    """How many inputs sentence-transformers cuts; 0 without a tokenizer of transformers.

    Args:
        model: opened by `sentence_transformer` or `cross_encoder`.
        task: "query" or "document", for which a model may have separate limits; "" for pairs.
        texts: with their prompt; a pair's first texts.
        seconds: a pair's second texts.
    """
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return 0
    limit = getattr(model[0], f"{task}_length", None) or model.max_seq_length
    return longer_than(tokenizer, limit, texts, seconds or ())


def raw(scores: Tensor) -> Tensor:
    """Returns logits unchanged, in place of an activation."""
    return scores
