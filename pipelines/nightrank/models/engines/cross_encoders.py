"""Cross-encoders: the built-in reranker, and any one-label sequence classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.models.engines import choosing as engines
from nightrank.models.protocols import ResolvedModel
from nightrank.models.text.batching import SPENT
from nightrank.models.text.inputs import Engine, Inputs, SplicedInputs, TokenisedInputs, run
from nightrank.models.text.splicing import Splicer
from nightrank.models.text.tokenizers import (
    SPLICED,
    decode_utf8,
    minilm_splicer,
    pretrained_tokenizer,
    splicer_for,
)
from nightrank.storage.tokens import Tokens


class PairScorer:
    """A network over pairs.

    Args:
        engine: the network.
        splicer: assembles pairs from stored ids; None where texts are stored.
        tokenizer: tokenises stored texts; needed without a splicer.
        max_length_tokens: bound on a pair; needed without a splicer.
        prompt: put before every query; needs the tokenizer.
    """

    def __init__(
        self,
        engine: Engine,
        splicer: Splicer | None,
        tokenizer: Any = None,
        max_length_tokens: int = 0,
        prompt: str = "",
    ) -> None:
        self._engine, self._splicer = engine, splicer
        self._tokenizer, self._limit, self._prompt = tokenizer, max_length_tokens, prompt

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """float32 [n], raw scores in the order of `pairs`."""
        inputs: Inputs
        if self._splicer is not None:
            inputs = SplicedInputs(self._splicer, queries, documents, pairs)
        else:
            prompted = [self._prompt + text for text in decode_utf8(queries)]
            texts = prompted, decode_utf8(documents)
            inputs = TokenisedInputs.of_pairs(self._tokenizer, *texts, pairs, self._limit)
        return run(inputs, self._engine)


class SentenceTransformersCrossEncoder:
    """Any cross-encoder of sentence-transformers, run by that library.

    Args:
        model: its `CrossEncoder`.
        prompt: put before every query.
    """

    def __init__(self, model: Any, prompt: str) -> None:
        self._model, self._prompt = model, prompt

    def score(
        self, queries: Tokens, documents: Tokens, pairs: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """float32 [n], raw scores; sentence-transformers sorts by length itself."""
        from nightrank.models.engines.torch_library import cut_by, raw

        if len(pairs) == 0:
            return np.zeros(0, dtype=np.float32)
        query_texts, document_texts = decode_utf8(queries), decode_utf8(documents)
        sides = [
            (query_texts[query], document_texts[document]) for query, document in pairs.tolist()
        ]
        first, second = [self._prompt + query for query, _ in sides], [text for _, text in sides]
        SPENT.cut += cut_by(self._model, "", first, second)
        scores = self._model.predict(
            sides,
            prompt=self._prompt,
            activation_fn=raw,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return np.ascontiguousarray(scores, dtype=np.float32)


def open_builtin(resolved: ResolvedModel, base: Path, delta: Path, threads: int) -> PairScorer:
    """The built-in cross-encoder; `interaction` has its formula.

    Args:
        resolved: a cross-encoder of family minilm.
        base: folder of the published bi-encoder.
        delta: folder of the difference.
        threads: CPU threads.
    """
    engine = engines.interaction(base, delta, resolved.precision, threads)
    return PairScorer(engine, minilm_splicer(resolved.max_length_tokens, pair=True))


def open_classifier(resolved: ResolvedModel, folder: Path, threads: int) -> PairScorer:
    """Any Hugging Face sequence classifier with one label; its scores are logits.

    Args:
        resolved: a cross-encoder of family sequence_classification.
        folder: its files on this machine.
        threads: CPU threads.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded, or its stored tokens cannot be spliced.
    """
    limit = resolved.max_length_tokens
    tokenizer = pretrained_tokenizer(folder)
    splicer = None
    if resolved.tokenizer.startswith(SPLICED):
        splicer = splicer_for(tokenizer, limit, pair=True)
        if splicer is None:
            raise NightrankError(
                "E_MODEL",
                "stored tokens were planned, but this machine's tokenizer cannot splice them",
                resolved.model,
                "use the same versions of transformers and tokenizers on all machines",
            )
    typed = "token_type_ids" in tokenizer.model_input_names
    engine = engines.classifier(folder, resolved.precision, threads, typed)
    return PairScorer(engine, splicer, tokenizer, limit, resolved.query_prompt)


def open_sentence_transformer(
    resolved: ResolvedModel, folder: Path, threads: int
) -> SentenceTransformersCrossEncoder:
    """A cross-encoder that no engine implements.

    Args:
        resolved: a cross-encoder of family sentence_transformers.
        folder: its files on this machine.
        threads: CPU threads.

    Raises:
        NightrankError: E_MODEL, where it cannot be loaded.
    """
    from nightrank.models.engines import torch_library, torch_models

    torch_models.use_threads(threads)
    model = torch_library.cross_encoder(folder, resolved.precision)
    torch_library.cut_at(model, resolved.max_length_tokens)
    return SentenceTransformersCrossEncoder(model, resolved.query_prompt)
