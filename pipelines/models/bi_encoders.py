"""Bi-encoders on torch: the built-in MiniLM on stored ids, and sentence-transformers on texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from pipelines.errors import NightrankError
from pipelines.models.hardware import choose_device
from pipelines.models.inputs import SplicedInputs, run_batches
from pipelines.models.packed import pack_linears
from pipelines.models.protocols import Kind, ResolvedModel
from pipelines.models.splicing import Batch, Splicer, provable_template
from pipelines.models.text_tokenizers import decode_utf8, pretrained_tokenizer
from pipelines.tokens import Tokens

# Its bars, and its report of tensors that a model has no use for, are not for our users' terminals.
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def splicer_for(folder: Path, max_length_tokens: int, pair: bool) -> Splicer | None:
    """The splicer of a folder's tokenizer, or None where splicing is not provable."""
    tokenizer = pretrained_tokenizer(folder)
    template = provable_template(tokenizer, pair)
    if template is None:
        return None
    return Splicer(template, max_length_tokens, int(tokenizer.pad_token_id))


class MiniLMBiEncoder:
    """all-MiniLM-L6-v2: mean over all tokens of the last layer, scaled to unit length.

    Args:
        resolved: a model of family minilm.
        folder: its files on this machine.
    """

    def __init__(self, resolved: ResolvedModel, folder: Path) -> None:
        from transformers import BertModel

        self.dimension = resolved.dimension
        self._device = choose_device()
        splicer = splicer_for(folder, resolved.max_length_tokens, pair=False)
        if splicer is None:
            raise NightrankError(
                "E_MODEL",
                "the tokenizer no longer encodes texts as its stored ids promise",
                resolved.model,
                "reinstall the versions of transformers and tokenizers that the project pins",
            )
        self._splicer = splicer
        self._model = BertModel.from_pretrained(
            str(folder), add_pooling_layer=False, dtype=DTYPES[resolved.precision]
        )
        self._model.eval().to(self._device)
        pack_linears(self._model)

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension]; queries and documents alike."""
        inputs = SplicedInputs(self._splicer, tokens)
        return run_batches(inputs, self._forward, self._device, self.dimension)

    def _forward(self, ids: Tensor, mask: Tensor | None, batch: Batch) -> Tensor:
        hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        if mask is not None:
            hidden = hidden * mask[..., None]
        lengths = torch.from_numpy(batch.lengths).to(ids.device)
        return nn.functional.normalize(hidden.sum(dim=1) / lengths[:, None], dim=1)


class SentenceTransformersBiEncoder:
    """Any sentence-transformers model, from utf8 tokens.

    Args:
        resolved: a model of family sentence_transformers.
        folder: its files on this machine.
    """

    def __init__(self, resolved: ResolvedModel, folder: Path) -> None:
        self.dimension = resolved.dimension
        self._prompts = {"query": resolved.query_prompt, "document": resolved.document_prompt}
        self._normalize = resolved.normalize
        self._model = open_sentence_transformer(folder, DTYPES[resolved.precision])
        self._model.max_seq_length = resolved.max_length_tokens
        pack_linears(self._model)

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension]; sentence-transformers sorts by length itself."""
        if len(tokens) == 0:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = self._model.encode(
            decode_utf8(tokens),
            prompt=self._prompts[kind],
            truncate_dim=self.dimension,
            normalize_embeddings=self._normalize,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def open_sentence_transformer(folder: Path, dtype: torch.dtype) -> Any:
    """Loads a folder with sentence-transformers.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(
            str(folder),
            device=str(choose_device()),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"dtype": dtype, "use_safetensors": True},
        )
    except Exception as error:
        raise cannot_load(folder, error) from None


def cannot_load(folder: Path, error: Exception) -> NightrankError:
    """A library's failure to load a folder, on one line."""
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    do = "check that the folder holds a model of this kind"
    return NightrankError("E_MODEL", f"cannot load: {first_line:.160}", str(folder), do)
