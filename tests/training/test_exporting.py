"""Exported folders, loaded by sentence-transformers, score as the pipeline does."""

import numpy as np
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)

pytestmark = pytest.mark.models
QUERIES = ["what is bm25", "who wrote hamlet", "x"]
DOCUMENTS = ["bm25 is a ranking function " * 20, "hamlet, by shakespeare", "", "word " * 700]


def main(*arguments):
    return guarded(lambda **_: app(["export-model", *map(str, arguments)]))


def test_the_reranker_scores_the_same(tmp_path, capsys):
    from sentence_transformers import CrossEncoder

    folder = tmp_path / "exported"
    assert main("builtin:reranker", folder) == 0
    assert "trust_remote_code=True" in capsys.readouterr().out
    with pytest.raises(ValueError, match="trust_remote_code"):
        CrossEncoder(str(folder), device="cpu")
    resolved = resolve_cross_encoder("builtin:reranker", precision="exact")
    tokenize = load_tokenizer(resolved)
    pairs = np.array([[i, j] for i in range(3) for j in range(4)], np.int32)
    model = load_cross_encoder(resolved, 1)
    expected = model.score(tokenize(QUERIES), tokenize(DOCUMENTS), pairs)
    peer = CrossEncoder(str(folder), device="cpu", trust_remote_code=True)
    scores = peer.predict([(QUERIES[i], DOCUMENTS[j]) for i, j in pairs], batch_size=5)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_the_bi_encoder_encodes_the_same(tmp_path):
    from sentence_transformers import SentenceTransformer

    assert main("builtin:minilm", tmp_path / "exported") == 0
    resolved = resolve_bi_encoder("builtin:minilm", precision="exact")
    expected = load_bi_encoder(resolved, 1).encode(load_tokenizer(resolved)(DOCUMENTS), "document")
    peer = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(peer.encode(DOCUMENTS), expected, atol=1e-5)


def test_refusals(tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main("builtin:reranker", tmp_path / "full") == 2
    assert main("no-such-folder", tmp_path / "new") == 3
    errors = capsys.readouterr().err
    assert "not empty" in errors and "no-such-folder" in errors
    assert not (tmp_path / "new").exists()
