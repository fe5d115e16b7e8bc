"""Cross-encoders on torch: the built-in reranker, and any one-label sequence classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.errors import NightrankError
from pipelines.models.bi_encoders import DTYPES, cannot_load, splicer_for
from pipelines.models.builtin_reranker import load_reranker
from pipelines.models.hardware import choose_device
from pipelines.models.inputs import Inputs, SplicedInputs, TokenisedInputs, run_batches
from pipelines.models.packed import pack_linears
from pipelines.models.protocols import ResolvedModel
from pipelines.models.splicing import Batch
from pipelines.models.text_tokenizers import SPLICED, decode_utf8, pretrained_tokenizer
from pipelines.tokens import Tokens


class BuiltinReranker:
    """The built-in cross-encoder: see `interaction` for its formula.

    Args:
        resolved: a cross-encoder of family minilm.
        base: folder of the published bi-encoder.
        delta: folder of the shipped difference.
    """

    def __init__(self, resolved: ResolvedModel, base: Path, delta: Path) -> None:
        self._device = choose_device()
        splicer = splicer_for(base, resolved.max_length_tokens, pair=True)
        if splicer is None:
            raise NightrankError(
                "E_MODEL",
                "the tokenizer no longer encodes pairs as its stored ids promise",
                resolved.model,
                "reinstall the versions of transformers and tokenizers that the project pins",
            )
        self._splicer = splicer
        self._model = load_reranker(base, delta)
        self._model.encoder.to(DTYPES[resolved.precision])
        self._model.to(self._device)
        pack_linears(self._model.encoder)

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """float32 [n], raw scores in the order of `pairs`."""
        inputs = SplicedInputs(self._splicer, queries, documents, pairs)
        return run_batches(inputs, self._forward, self._device)

    def _forward(self, ids: Tensor, mask: Tensor | None, batch: Batch) -> Tensor:
        first = torch.from_numpy(batch.first_lengths).to(ids.device)
        lengths = torch.from_numpy(batch.lengths).to(ids.device)
        scores: Tensor = self._model(ids, mask, first, lengths)
        return scores


class SequenceClassifier:
    """Any Hugging Face sequence classifier with one label.

    Args:
        resolved: a cross-encoder of family sequence_classification.
        folder: its files on this machine.
    """

    def __init__(self, resolved: ResolvedModel, folder: Path) -> None:
        self._device = choose_device()
        self._limit = resolved.max_length_tokens
        self._tokenizer = pretrained_tokenizer(folder)
        self._splicer = None
        if resolved.tokenizer.startswith(SPLICED):
            self._splicer = splicer_for(folder, self._limit, pair=True)
            if self._splicer is None:
                raise NightrankError(
                    "E_MODEL",
                    "stored tokens were planned, but this machine's tokenizer cannot splice them",
                    resolved.model,
                    "use the same versions of transformers and tokenizers on all machines",
                )
        self._typed = "token_type_ids" in self._tokenizer.model_input_names
        self._model = open_classifier(folder, DTYPES[resolved.precision]).to(self._device)
        pack_linears(self._model)

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """float32 [n], logits in the order of `pairs`."""
        inputs: Inputs
        if self._splicer is not None:
            inputs = SplicedInputs(self._splicer, queries, documents, pairs)
        else:
            texts = decode_utf8(queries), decode_utf8(documents)
            inputs = TokenisedInputs(self._tokenizer, *texts, pairs, self._limit)
        return run_batches(inputs, self._forward, self._device)

    def _forward(self, ids: Tensor, mask: Tensor | None, batch: Batch) -> Tensor:
        fields: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        if self._typed:
            fields["token_type_ids"] = torch.from_numpy(batch.token_types).to(ids.device)
        logits: Tensor = self._model(**fields).logits
        return logits[:, 0]


def open_classifier(folder: Path, dtype: torch.dtype) -> Any:
    """Loads a folder's sequence classifier in evaluation mode.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    from transformers import AutoModelForSequenceClassification

    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except Exception as error:
        raise cannot_load(folder, error) from None
    return model.eval()
