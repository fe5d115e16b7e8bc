import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from nightrank.errors import NightrankError
from nightrank.models.protocols import BiEncoder, CrossEncoder, ResolvedModel, Tokenizer
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)

EXPECTED_COLUMNS = [19, 28, 47, 51]
EXPECTED_VALUES = [0.5, -0.5, -0.5, 0.5]
TEXTS = ["Ranking documents with BM25", "documents ranked", "", "nothing in common here"]


def test_bag_of_words_is_exactly_reproducible():
    resolved = resolve_bi_encoder("toy:bag-of-words")
    encoder = load_bi_encoder(resolved, 1)
    vectors = encoder.encode(load_tokenizer(resolved)(TEXTS), "document")
    assert isinstance(encoder, BiEncoder) and vectors.dtype == np.float32
    assert vectors.shape == (4, 64) == (4, resolved.dimension)
    norms = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(norms, [1, 1, 0, 1], atol=1e-6)
    # Written down once: a change of these bits is a change of the model, and needs a new digest.
    assert np.flatnonzero(vectors[1]).tolist() == EXPECTED_COLUMNS
    assert vectors[1][EXPECTED_COLUMNS].tolist() == EXPECTED_VALUES


def test_dimension_is_the_callers():
    resolved = resolve_bi_encoder("toy:bag-of-words", dimension=16)
    vectors = load_bi_encoder(resolved, 1).encode(load_tokenizer(resolved)(TEXTS), "query")
    assert vectors.shape == (4, 16)


def test_overlap_ranks_by_shared_words_then_by_order():
    resolved = resolve_cross_encoder("toy:overlap")
    tokenizer, encoder = load_tokenizer(resolved), load_cross_encoder(resolved, 1)
    assert isinstance(tokenizer, Tokenizer) and isinstance(encoder, CrossEncoder)
    queries = tokenizer(["red apple pie", ""])
    documents = tokenizer(pa.array(["an apple red as pie", "red apple pie", "red wine", "", None]))
    pairs = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [0, 4]], dtype=np.int32)
    scores = encoder.score(queries, documents, pairs)
    assert scores.dtype == np.float32
    assert scores[1] > scores[0] > scores[2] > scores[3] == scores[4] == scores[5] == 0.0
    assert scores[1] == np.float32(1.375)


def test_resolved_models_survive_json_and_know_their_identity():
    resolved = resolve_cross_encoder("toy:overlap", max_length_tokens=64)
    assert ResolvedModel.from_dict(resolved.to_dict()) == resolved
    assert "path" not in resolved.identity()
    assert resolved.max_length_tokens == 64


def test_toy_runs_import_no_torch():
    code = """
import sys
import numpy as np
from nightrank.models.registry import *
from nightrank.models.registry import load_tokenizer, load_bi_encoder, load_cross_encoder
from nightrank.models.registry import resolve_bi_encoder, resolve_cross_encoder
b, c = resolve_bi_encoder('toy:bag-of-words'), resolve_cross_encoder('toy:overlap')
t = load_tokenizer(b)(['a b', 'b c'])
load_bi_encoder(b, 1).encode(t, 'query')
load_cross_encoder(c, 1).score(t, t, np.array([[0, 1]], np.int32))
heavy = {'torch', 'transformers', 'sentence_transformers', 'tokenizers', 'safetensors'}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: resolve_bi_encoder("toy:overlap"), "no bi-encoder"),
        (lambda: resolve_cross_encoder("builtin:minilm"), "no cross-encoder"),
        (lambda: resolve_cross_encoder("toy:overlap", precision="bf16"), "no precision 'bf16'"),
        (lambda: resolve_bi_encoder("toy:bag-of-words", query_prompt="q: "), "no prompts"),
        (lambda: resolve_bi_encoder("no/such folder"), "unknown model"),
        (lambda: resolve_bi_encoder("owner/name"), "needs a revision of 40 hex digits"),
        (lambda: resolve_cross_encoder("owner/name", revision="main"), "found 'main'"),
        (lambda: load_bi_encoder(resolve_cross_encoder("toy:overlap"), 1), "opened as bi_encoder"),
    ],
)
def test_errors_are_one_line_with_code_3(call, says):
    with pytest.raises(NightrankError) as raised:
        call()
    assert raised.value.code == "E_MODEL" and raised.value.exit_code == 3
    assert says in str(raised.value) and "\n" not in str(raised.value)
