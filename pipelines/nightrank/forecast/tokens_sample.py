"""Tokens of the sample by the configured models' own tokenizers: stored bytes, lengths, padding."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.errors import NightrankError
from nightrank.forecast.miniature import parquet_bytes
from nightrank.models.protocols import ResolvedModel
from nightrank.models.registry import load_tokenizer
from nightrank.models.text.batching import pack
from nightrank.models.text.passage import passage_texts
from nightrank.models.text.splicing import longest_first
from nightrank.models.text.tokenizers import UTF8, pretrained_tokenizer
from nightrank.storage import schemas
from nightrank.storage.tokens import Tokens

# [CLS] and [SEP]s of models like BERT; the few that others differ by do not matter here.
SPECIAL_SINGLE, SPECIAL_PAIR = 2, 3
PAIRS = 4096
SEED = 20_26


@dataclass(frozen=True)
class Side:
    """One side's texts as a tokenizer stores them.

    Attributes:
        tokens: as stored; bytes where the model tokenises whole texts itself.
        lengths: int64 [n], tokens as the model counts them, without special ones.
        row_bytes: of a row of the stored file.
        seconds: a row, on one core.
    """

    tokens: Tokens
    lengths: NDArray[np.int64]
    row_bytes: float
    seconds: float


@dataclass(frozen=True)
class Texts:
    """Both sides by one model's tokenizer."""

    documents: Side
    queries: Side


def tokenise(
    model: ResolvedModel, documents: pa.Table, queries: pa.Table, shard_rows: tuple[int, int]
) -> Texts:
    """Tokens of the sample, as the stage writes them.

    Args:
        model: whose tokenizer is taken.
        documents: accepted rows, with title and text.
        queries: accepted rows, with text.
        shard_rows: of documents and queries: small files compress less.
    """
    tokenizer = load_tokenizer(model)
    real: Any = None
    if model.tokenizer.startswith(UTF8):
        # Without one (a table of vectors splits texts itself) bytes count as tokens.
        with contextlib.suppress(NightrankError):
            real = pretrained_tokenizer(Path(model.path))
    titles, bodies = (documents[name].combine_chunks() for name in ("title", "text"))
    texts = passage_texts(titles, bodies), queries["text"].combine_chunks()
    sides = zip(texts, shard_rows, strict=True)
    return Texts(*(_side(tokenizer, real, each, rows) for each, rows in sides))


def _side(tokenizer: Any, real: Any, texts: pa.StringArray, shard_rows: int) -> Side:
    tokenizer(texts.slice(0, 8))  # The first call also loads tables.
    began = time.process_time()
    tokens = tokenizer(texts)
    seconds = (time.process_time() - began) / max(1, len(texts))
    lengths = tokens.lengths
    if real is not None:
        plain = real(texts.to_pylist(), add_special_tokens=False, verbose=False)["input_ids"]
        lengths = np.array([len(ids) for ids in plain], np.int64)
    table = pa.table([tokens.to_arrow()], schema=schemas.TOKENS)
    parts = [table.slice(at, shard_rows) for at in range(0, len(tokens), shard_rows)]
    size = sum(map(parquet_bytes, parts)) - len(parts) * parquet_bytes(table.slice(0, 0))
    return Side(tokens, lengths, size / max(1, len(tokens)), seconds)


@dataclass(frozen=True)
class Load:
    """The work of a model: inputs of these lengths (int64 [n]), special tokens counted.

    Attributes:
        lengths: of the sampled inputs.
        padded: tokens that go through the model for each input, padding counted.
        cut: the share of inputs that are longer than the model takes.
    """

    lengths: NDArray[np.int64]
    padded: float
    cut: float

    @property
    def real(self) -> float:
        """Tokens of an input without padding."""
        return float(self.lengths.mean()) if len(self.lengths) else 0.0


def single_load(lengths: NDArray[np.int64], limit: int, budget: int) -> Load:
    """Texts one by one, batches of `budget` padded tokens; lengths int64 [n]."""
    whole = lengths + SPECIAL_SINGLE
    kept = np.minimum(whole, limit)
    return Load(kept, padded_tokens(kept, budget) / max(1, len(kept)), _share(whole > limit))


def pair_load(texts: Texts, limit: int, budget: int) -> tuple[Load, NDArray[np.int32]]:
    """Random pairs of the sample: their load, and the pairs (int32 [n, 2])."""
    draw = np.random.default_rng(SEED)
    query = draw.integers(0, len(texts.queries.tokens), PAIRS)
    document = draw.integers(0, len(texts.documents.tokens), PAIRS)
    first, second = texts.queries.lengths[query], texts.documents.lengths[document]
    kept = longest_first(first, second, limit - SPECIAL_PAIR)
    lengths = kept[0] + kept[1] + SPECIAL_PAIR
    pairs = np.stack([query, document], axis=1).astype(np.int32)
    cut = _share(first + second > limit - SPECIAL_PAIR)
    return Load(lengths, padded_tokens(lengths, budget) / PAIRS, cut), pairs


def _share(chosen: NDArray[np.bool_]) -> float:
    return float(chosen.mean()) if len(chosen) else 0.0


def cut_shares(
    encoder: ResolvedModel,
    documents: Load,
    queries: Load,
    steps: Sequence[ResolvedModel],
    pairs: Sequence[tuple[Load, NDArray[np.int32]]],
) -> list[dict[str, Any]]:
    """What is longer than its model takes, of documents, queries and each step's pairs.

    Args:
        encoder: of documents and queries.
        documents: its load.
        queries: its load.
        steps: the rerankers.
        pairs: their loads, as `pair_load` gives them: of pairs drawn at random.

    Returns:
        `kind`, `model`, `tokens` (the limit) and `share` of each.
    """
    loads = [("documents", encoder, documents), ("queries", encoder, queries)]
    loads += [("pairs", step, load) for step, (load, _) in zip(steps, pairs, strict=True)]
    return [
        {
            "kind": kind,
            "model": model.model,
            "tokens": model.max_length_tokens,
            "share": round(load.cut, 4),
        }
        for kind, model, load in loads
    ]


def padded_tokens(lengths: NDArray[np.int64], budget: int) -> int:
    """Tokens of all batches of inputs of these lengths (int64 [n]), padding counted."""
    batches = pack(lengths, budget)
    return sum(max(1, int(lengths[batch[0]])) * len(batch) for batch in batches)
