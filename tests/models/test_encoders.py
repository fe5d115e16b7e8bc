"""The torch models against the libraries that define what they should give."""

import numpy as np
import pytest

from nightrank.errors import NightrankError
from nightrank.models import hardware
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from tests.support.tiny_models import tiny_bert, tiny_tokenizer

pytestmark = pytest.mark.models
TEXTS = [
    "BM25 ranks documents by the words they share with a query.",
    "",
    "A bi-encoder maps texts to vectors; near vectors mean near texts. " * 30,
    "日本語 and emoji 🙂",
    "What is a cross-encoder?",
]
QUERIES = ["what is the red wine?", "money in the river bank", "a b c d e f g " * 5]
DOCUMENTS = ["apple pie, red apples.", "", "water " * 60, "the bank of the river. money!", "1 2 3"]
PAIRS = np.array([[q, d] for q in range(3) for d in range(5)], dtype=np.int32)[::-1].copy()


@pytest.fixture(scope="module")
def minilm():
    from sentence_transformers import SentenceTransformer

    from nightrank.models.folders.builtin import minilm_folder

    return SentenceTransformer(str(minilm_folder()), device="cpu")


def encode(resolved, texts, kind="document"):
    return load_bi_encoder(resolved, 1).encode(load_tokenizer(resolved)(texts), kind)


def score(resolved):
    tokenizer = load_tokenizer(resolved)
    return load_cross_encoder(resolved, 1).score(tokenizer(QUERIES), tokenizer(DOCUMENTS), PAIRS)


def test_minilm_equals_sentence_transformers(minilm):
    resolved = resolve_bi_encoder("builtin:minilm", precision="exact")
    assert (resolved.dimension, resolved.max_length_tokens, resolved.normalize) == (384, 256, True)
    vectors = encode(resolved, TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 384)
    np.testing.assert_allclose(vectors, minilm.encode(TEXTS), atol=1e-5)
    assert encode(resolved, []).shape == (0, 384)


def test_prompts_and_dimension_take_the_general_path_and_equal_it_too(minilm):
    resolved = resolve_bi_encoder(
        "builtin:minilm", precision="exact", query_prompt="query: ", dimension=64
    )
    assert resolved.family == "sentence_transformers" and resolved.tokenizer.startswith("utf8")
    expected = minilm.encode(TEXTS, prompt="query: ", truncate_dim=64, normalize_embeddings=True)
    np.testing.assert_allclose(encode(resolved, TEXTS, "query"), expected, atol=1e-5)


@pytest.mark.skipif(not hardware.cpu_has_bf16(), reason="no native bfloat16 here")
def test_bf16_is_close_to_fp32():
    exact = encode(resolve_bi_encoder("builtin:minilm", precision="exact"), TEXTS)
    rounded = encode(resolve_bi_encoder("builtin:minilm", precision="bf16"), TEXTS)
    assert ((exact * rounded).sum(axis=1) > 0.999).all()


def test_cross_encoder_equals_sentence_transformers(tiny_cross_encoder):
    from sentence_transformers import CrossEncoder
    from torch import nn

    resolved = resolve_cross_encoder(str(tiny_cross_encoder), precision="exact")
    assert resolved.tokenizer.startswith("spliced") and resolved.max_length_tokens == 48
    theirs = CrossEncoder(str(tiny_cross_encoder), device="cpu", max_length=48)
    expected = theirs.predict(
        [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS], activation_fn=nn.Identity()
    )
    np.testing.assert_allclose(score(resolved), expected, rtol=0, atol=1e-5 * np.ptp(expected))
    assert np.ptp(expected) > 0.1


def test_unprovable_tokenizers_tokenise_whole_pairs_and_equal_it_too(tmp_path):
    from sentence_transformers import CrossEncoder
    from torch import nn

    tiny_tokenizer(tmp_path, truncation_side="left")
    tiny_bert(tmp_path)
    resolved = resolve_cross_encoder(str(tmp_path), precision="exact")
    assert resolved.tokenizer.startswith("utf8")
    theirs = CrossEncoder(str(tmp_path), device="cpu", max_length=48)
    expected = theirs.predict(
        [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS], activation_fn=nn.Identity()
    )
    np.testing.assert_allclose(score(resolved), expected, rtol=0, atol=1e-5 * np.ptp(expected))


def test_scores_do_not_depend_on_what_else_is_in_the_unit(tiny_cross_encoder):
    resolved = resolve_cross_encoder(str(tiny_cross_encoder), precision="exact")
    tokenizer, model = load_tokenizer(resolved), load_cross_encoder(resolved, 1)
    queries, documents = tokenizer(QUERIES), tokenizer(DOCUMENTS)
    whole = model.score(queries, documents, PAIRS)
    np.testing.assert_array_equal(whole, model.score(queries, documents, PAIRS))
    alone = np.concatenate([model.score(queries, documents, PAIRS[i : i + 1]) for i in range(15)])
    np.testing.assert_allclose(whole, alone, atol=1e-5)
    assert model.score(queries, documents, PAIRS[:0]).shape == (0,)


def refused(call, *says):
    with pytest.raises(NightrankError) as raised:
        call()
    assert raised.value.code == "E_MODEL" and "\n" not in str(raised.value)
    for part in says:
        assert part in str(raised.value)


def test_refusals(tiny_cross_encoder, edit_config, tmp_path_factory, monkeypatch):
    folder, model = tiny_cross_encoder, str(tiny_cross_encoder)
    resolved = resolve_cross_encoder(model, precision="exact")
    refused(lambda: resolve_cross_encoder(model, max_length_tokens=999), "outside 8 to 48")
    monkeypatch.setattr(hardware, "has_bf16", lambda: False)
    assert resolve_cross_encoder(model).precision == "fp32"
    refused(lambda: resolve_cross_encoder(model, precision="bf16"), "no native bfloat16")

    two = tmp_path_factory.mktemp("two")
    tiny_tokenizer(two)
    tiny_bert(two, labels=2)
    refused(lambda: resolve_cross_encoder(str(two)), "1 label", "has 2")

    edit_config(folder, layer_norm_eps=0.5)
    refused(lambda: load_cross_encoder(resolved, 1), "planned with files of digest", "plan again")
    edit_config(folder, auto_map={"AutoModel": "code.Model"})
    refused(lambda: resolve_cross_encoder(model), "auto_map")
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    refused(lambda: resolve_cross_encoder(model), "no .safetensors weights", "convert")
    refused(lambda: resolve_cross_encoder(str(folder / "absent")), "unknown model")
