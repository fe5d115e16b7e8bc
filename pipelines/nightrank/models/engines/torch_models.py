"""Models opened with torch and transformers, and their engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from nightrank.errors import NightrankError
from nightrank.models.engines.bert import HEADS, KINDS, first_position
from nightrank.models.engines.builtin_reranker import load_reranker
from nightrank.models.engines.packing import DECODERS
from nightrank.models.engines.torch_engine import (
    Padded,
    Takes,
    TorchEngine,
    budget_of,
    finish_on,
    mean_pooling,
    padded_fields,
    start_on,
)
from nightrank.models.folders.files import read_json
from nightrank.models.hardware import choose_device
from nightrank.models.protocols import Precision, ResolvedModel
from nightrank.models.text.pieces import Batch

# Otherwise it prints progress bars, and tensors that a model does not use.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def use_threads(threads: int) -> None:
    """Sets how many CPU threads torch uses in this process."""
    torch.set_num_threads(threads)


def interaction_engine(base: Path, delta: Path, precision: Precision) -> TorchEngine:
    """The built-in reranker; its head stays in float32."""
    device = choose_device()
    model = load_reranker(base, delta).to(device)
    model.encoder.to(DTYPES[precision])

    def head(padded: Padded) -> Tensor:
        hidden, longest = padded.hidden.float(), padded.longest_first
        return model.head(hidden, padded.first_lengths, padded.lengths, longest)

    return TorchEngine(model.encoder, head, device, typed=True)


def pooled_engine(folder: Path, resolved: ResolvedModel, mean: bool) -> TorchEngine | None:
    """A bi-encoder of one of `bert.KINDS`; None for another."""
    config = read_json(folder / "config.json")
    if config.get("model_type") not in KINDS:
        return None
    from transformers import AutoModel

    encoder = _open(AutoModel, folder, resolved.precision, add_pooling_layer=False)
    dimension, normalize = resolved.dimension, resolved.normalize

    def head(padded: Padded) -> Tensor:
        pooled = mean_pooling(padded) if mean else padded.hidden[:, 0].float()
        pooled = pooled[:, :dimension]
        return nn.functional.normalize(pooled, dim=1) if normalize else pooled

    typed = config["model_type"] == "bert"
    takes: Takes = "all" if mean else "first"
    return TorchEngine(encoder, head, choose_device(), typed, first_position(config), takes)


class ClassifierEngine:
    """A sequence classifier with its own library's code, on padded rows.

    Args:
        model: with one label.
        device: where to run.
        typed: whether it takes token types.
    """

    def __init__(self, model: nn.Module, device: torch.device, typed: bool) -> None:
        self._model, self._device, self._typed = model.to(device), device, typed
        self.token_budget = budget_of(device)

    @torch.inference_mode()
    def start(self, batch: Batch) -> Tensor:
        """Starts a batch; float32 [n] on the device."""

        def logits() -> Tensor:
            fields = padded_fields(batch, self._device, self._typed)
            outputs: Tensor = self._model(**fields).logits
            return outputs[:, 0].float()

        return start_on(logits, self._device)

    def finish(self, started: Tensor) -> NDArray[np.float32]:
        """Waits for a batch."""
        return finish_on(started)


def classifier_engine(
    folder: Path, precision: Precision, typed: bool
) -> TorchEngine | ClassifierEngine:
    """Any one-label sequence classifier; those of `bert.HEADS` as an encoder and a float32 head.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    from transformers import AutoModelForSequenceClassification

    model, device = _open(AutoModelForSequenceClassification, folder, precision), choose_device()
    if type(model).__name__ in HEADS:
        first = first_position(read_json(folder / "config.json"))
        return headed_engine(model, device, typed, first)
    if model.config.model_type in DECODERS:
        return decoder_engine(model, device)
    return ClassifierEngine(model, device, typed)


def headed_engine(
    model: Any, device: torch.device, typed: bool, first_position: int
) -> TorchEngine:
    """An opened classifier of `bert.HEADS`, split into encoder and head.

    Args:
        model: with one label; changed in place.
        device: where to run.
        typed: whether it takes token types.
        first_position: the position id of a text's first token.
    """
    encoder, classifier = model.base_model, model.classifier.to(device).float()
    pooler = encoder.pooler.to(device).float() if encoder.pooler is not None else None
    encoder.pooler = None

    def head(padded: Padded) -> Tensor:
        # RoBERTa selects the first token in the classifier, BERT in the pooler.
        first = padded.hidden[:, :1].float()
        logits: Tensor = classifier(first if pooler is None else pooler(first))
        return logits[:, 0]

    return TorchEngine(encoder, head, device, typed, first_position, "first")


def decoder_engine(model: Any, device: torch.device) -> TorchEngine:
    """An opened decoder with a float32 head over the last token.

    Args:
        model: of `packing.DECODERS`, with one label; changed in place.
        device: where to run.
    """
    score = model.score.to(device).float()

    def head(padded: Padded) -> Tensor:
        logits: Tensor = score(padded.hidden[:, 0].float())
        return logits[:, 0]

    padding = model.config.pad_token_id
    padding = (
        -1 if padding is None else padding
    )  # No token has this id: a row's last token is its last.
    return TorchEngine(model.base_model, head, device, False, takes="last", padding=padding)


def cannot_load(folder: Path, error: Exception) -> NightrankError:
    """A library's failure to load a folder, on one line."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    do = "check that the folder holds a model for this role"
    return NightrankError("E_MODEL", f"cannot load: {first_line:.160}", str(folder), do)


def _open(kind: Any, folder: Path, precision: Precision, **options: Any) -> Any:
    """Loads a folder with transformers, in evaluation mode.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded or lacks weights: transformers would
            initialise them at random.
    """
    try:
        model, loading_info = kind.from_pretrained(
            str(folder),
            dtype=DTYPES[precision],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise cannot_load(folder, error) from None
    require_no_missing(loading_info, folder)
    return model.eval()


def require_no_missing(loading_info: Any, folder: Path) -> None:
    """Refuses a loaded model with missing weights.

    Raises:
        NightrankError: E_MODEL.
    """
    # The pooler's output is never used.
    names = sorted(loading_info["missing_keys"])
    missing = [name for name in names if not name.startswith("pooler.")]
    if missing:
        what = f"its files lack {len(missing)} of the weights, e.g. {missing[0]}"
        do = "use the folder of a complete model for this role"
        raise NightrankError("E_MODEL", what, str(folder), do)
