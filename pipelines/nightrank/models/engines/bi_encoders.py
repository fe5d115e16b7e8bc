"""Bi-encoders: the built-in MiniLM on stored ids, sentence-transformers models on texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.models.engines import choosing as engines
from nightrank.models.protocols import BiEncoder, Kind, ResolvedModel
from nightrank.models.text.batching import SPENT
from nightrank.models.text.inputs import Engine, SplicedInputs, TokenisedInputs, run
from nightrank.models.text.splicing import Splicer
from nightrank.models.text.tokenizers import (
    decode_utf8,
    minilm_splicer,
    pretrained_tokenizer,
)
from nightrank.storage.tokens import Tokens


class SplicedBiEncoder:
    """A network over stored ids; it encodes queries and documents alike.

    Args:
        engine: the network.
        splicer: assembles inputs.
        dimension: width of its vectors.
    """

    def __init__(self, engine: Engine, splicer: Splicer, dimension: int) -> None:
        self._engine, self._splicer, self.dimension = engine, splicer, dimension

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension]."""
        return run(SplicedInputs(self._splicer, tokens), self._engine, self.dimension)


class TextBiEncoder:
    """A network over texts, each after its prompt.

    Args:
        engine: the network.
        tokenizer: the model's.
        resolved: prompts, limit, dimension.
    """

    def __init__(self, engine: Engine, tokenizer: Any, resolved: ResolvedModel) -> None:
        self._engine, self._tokenizer, self._resolved = engine, tokenizer, resolved
        self.dimension = resolved.dimension

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension]."""
        texts, limit = _prompted(tokens, kind, self._resolved), self._resolved.max_length_tokens
        inputs = TokenisedInputs.of_texts(self._tokenizer, texts, limit)
        return run(inputs, self._engine, self.dimension)


class SentenceTransformersBiEncoder:
    """Any sentence-transformers model, run by that library.

    Args:
        model: its `SentenceTransformer`.
        resolved: prompts, dimension, and whether vectors are scaled to unit length.
    """

    def __init__(self, model: Any, resolved: ResolvedModel) -> None:
        self._model, self._resolved = model, resolved
        self.dimension = resolved.dimension

    def encode(self, tokens: Tokens, kind: Kind) -> NDArray[np.float32]:
        """float32 [n, dimension]; sentence-transformers sorts by length itself."""
        if len(tokens) == 0:
            return np.zeros((0, self.dimension), dtype=np.float32)
        from nightrank.models.engines.torch_library import cut_by

        prompt, texts = _prompt(kind, self._resolved), decode_utf8(tokens)
        SPENT.cut += cut_by(self._model, kind, [prompt + text for text in texts])
        # These methods also set the task, which a Router and separate limits for queries need.
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        vectors = encode(
            texts,
            prompt=prompt,
            truncate_dim=self.dimension,
            normalize_embeddings=self._resolved.normalize,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(vectors, dtype=np.float32)


def open_minilm(resolved: ResolvedModel, folder: Path, threads: int) -> BiEncoder:
    """all-MiniLM-L6-v2: mean over all tokens of the last layer, scaled to unit length.

    Args:
        resolved: a model of family minilm.
        folder: its files on this machine.
        threads: CPU threads.
    """
    engine = engines.pooled(folder, resolved, threads)
    assert engine is not None  # its digest is pinned
    splicer = minilm_splicer(resolved.max_length_tokens, pair=False)
    return SplicedBiEncoder(engine, splicer, resolved.dimension)


def open_sentence_transformer(resolved: ResolvedModel, folder: Path, threads: int) -> BiEncoder:
    """Any sentence-transformers model, on a fast engine where one implements its modules.

    Args:
        resolved: a model of family sentence_transformers.
        folder: its files on this machine.
        threads: CPU threads.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    engine = engines.pooled(folder, resolved, threads)
    if engine is not None:
        return TextBiEncoder(engine, pretrained_tokenizer(folder), resolved)
    from nightrank.models.engines import torch_library, torch_models

    torch_models.use_threads(threads)
    model = torch_library.sentence_transformer(folder, resolved.precision)
    torch_library.cut_at(model, resolved.max_length_tokens)
    return SentenceTransformersBiEncoder(model, resolved)


def _prompt(kind: Kind, resolved: ResolvedModel) -> str:
    return resolved.query_prompt if kind == "query" else resolved.document_prompt


def _prompted(tokens: Tokens, kind: Kind, resolved: ResolvedModel) -> list[str]:
    prompt = _prompt(kind, resolved)
    return [prompt + text for text in decode_utf8(tokens)]
