"""The fast engines against the general one, and against the libraries behind it."""

import numpy as np
import pytest

from nightrank.errors import NightrankError
from nightrank.models import hardware
from nightrank.models.engines import bert, openvino_graph
from nightrank.models.engines import choosing as engines
from nightrank.models.engines.openvino_engine import OpenVinoEngine
from nightrank.models.folders import builtin
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from nightrank.models.text.inputs import SplicedInputs, run
from nightrank.models.text.tokenizers import minilm_splicer, minilm_tokenizer
from tests.support.tiny_models import (
    DOCUMENTS,
    FAMILIES,
    PAIRS,
    QUERIES,
    by_sentence_transformers,
    tiny,
)

pytestmark = pytest.mark.models


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_known_classifiers_equal_sentence_transformers(tmp_path, family, fast, monkeypatch):
    kind, changes = FAMILIES[family]
    tiny(tmp_path, kind, **changes)
    resolved = resolve_cross_encoder(str(tmp_path), precision="exact")
    if not fast:
        monkeypatch.setattr(engines, "_on_openvino", lambda: False)
    tokenizer, model = load_tokenizer(resolved), load_cross_encoder(resolved, 1)
    assert isinstance(model._engine, OpenVinoEngine) == (fast and not hardware.has_cuda())
    outputs = model.score(tokenizer(QUERIES), tokenizer(DOCUMENTS), PAIRS)
    expected = by_sentence_transformers(tmp_path, resolved.max_length_tokens)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_published_in_half_precision_are_read_as_they_are(tmp_path, dtype):
    import torch
    from safetensors.torch import load_file, save_file

    tiny(tmp_path, "Bert")
    file = tmp_path / bert.WEIGHTS
    halves = {name: t.to(getattr(torch, dtype)) for name, t in load_file(file).items()}
    save_file({**halves, "ids": torch.arange(3)}, file)
    outputs = bert.read_tensors(file)
    assert set(outputs) == set(halves)
    for name, tensor in halves.items():
        np.testing.assert_array_equal(outputs[name], tensor.float().numpy())
    assert bert.read_classifier(tmp_path) is not None


@pytest.mark.parametrize("change", [{"hidden_act": "relu"}, {"hidden_act": "gelu_new"}])
def test_other_networks_take_the_general_engine_and_equal_it_too(tmp_path, change):
    tiny(tmp_path, "Bert", **change)
    assert bert.read_classifier(tmp_path) is None
    resolved = resolve_cross_encoder(str(tmp_path), precision="exact")
    tokenizer, model = load_tokenizer(resolved), load_cross_encoder(resolved, 1)
    outputs = model.score(tokenizer(QUERIES), tokenizer(DOCUMENTS), PAIRS)
    expected = by_sentence_transformers(tmp_path, resolved.max_length_tokens)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5 * np.ptp(expected))


def pooled_model(folder, kind, changes, pooling, normalize):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    encoder = folder / "encoder"
    encoder.mkdir()
    tiny(encoder, kind, **changes)
    transformer = Transformer(str(encoder), max_seq_length=32)
    modules = [transformer, Pooling(32, pooling_mode=pooling)]
    modules = [*modules, Normalize()] if normalize else modules
    similarity = "cosine" if normalize else "dot"
    model = SentenceTransformer(modules=modules, similarity_fn_name=similarity)
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("pooling", "normalize", "dimension"), [("mean", True, None), ("cls", False, 16)]
)
def test_simple_bi_encoders_equal_sentence_transformers(
    tmp_path, family, pooling, normalize, dimension, fast, monkeypatch
):
    from sentence_transformers import SentenceTransformer

    folder = pooled_model(tmp_path, *FAMILIES[family], pooling, normalize)
    settings = {"query_prompt": "what is: ", "dimension": dimension}
    resolved = resolve_bi_encoder(str(folder), precision="exact", **settings)
    if not fast:
        monkeypatch.setattr(engines, "_on_openvino", lambda: False)
    model = load_bi_encoder(resolved, 1)
    assert isinstance(model._engine, OpenVinoEngine) == (fast and not hardware.has_cuda())
    theirs = SentenceTransformer(str(folder), device="cpu")
    for kind, prompt in (("query", "what is: "), ("document", None)):
        expected = theirs.encode(
            DOCUMENTS, prompt=prompt, truncate_dim=dimension, normalize_embeddings=normalize
        )
        outputs = model.encode(load_tokenizer(resolved)(DOCUMENTS), kind)
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert model.encode(load_tokenizer(resolved)([]), "query").shape == (0, resolved.dimension)


def test_other_poolings_are_left_to_sentence_transformers(tmp_path):
    folder = pooled_model(tmp_path, "Bert", {}, "max", True)
    assert engines.pools_by_mean(folder) is None
    resolved = resolve_bi_encoder(str(folder), precision="exact")
    vectors = load_bi_encoder(resolved, 1).encode(load_tokenizer(resolved)(DOCUMENTS), "query")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def builtin_inputs(limit=256):
    tokenize = minilm_tokenizer()
    return SplicedInputs(
        minilm_splicer(limit, pair=True), tokenize(QUERIES), tokenize(DOCUMENTS), PAIRS
    )


def builtin_engines(precision):
    base, delta = builtin.minilm_folder(), builtin.RERANKER_FOLDER
    from nightrank.models.engines.torch_models import interaction_engine

    return (
        engines.interaction(base, delta, precision, 1),
        interaction_engine(base, delta, precision),
    )


def test_the_built_in_reranker_scores_the_same_on_both_engines():
    fast, general = builtin_engines("fp32")
    expected = run(builtin_inputs(), general)
    np.testing.assert_allclose(run(builtin_inputs(), fast), expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 5


@pytest.mark.skipif(not hardware.cpu_has_bf16(), reason="no native bfloat16 here")
def test_bf16_scores_hardly_depend_on_the_engine_or_the_batch():
    fast, general = builtin_engines("bf16")
    scores = run(builtin_inputs(), fast)
    np.testing.assert_allclose(scores, run(builtin_inputs(), general), rtol=0, atol=0.35)
    fast.token_budget = 1  # every pair alone
    # The bound that ARCHITECTURE.md states for one engine, whatever the batches.
    np.testing.assert_allclose(run(builtin_inputs(), fast), scores, rtol=0, atol=0.1)


def test_only_the_first_token_of_the_last_layer_is_the_same(tmp_path):
    tiny(tmp_path, "Bert")
    encoder, layers = bert.read_classifier(tmp_path)
    head = openvino_graph.classifier_head(layers, encoder.hidden)
    outputs = []
    for first_only in (False, True):
        graph = openvino_graph.encoder(encoder, first_only)
        engine = OpenVinoEngine(graph, head, "fp32", 1)
        resolved = resolve_cross_encoder(str(tmp_path), precision="exact")
        tokenize = load_tokenizer(resolved)
        splicer = load_cross_encoder(resolved, 1)._splicer
        inputs = SplicedInputs(splicer, tokenize(QUERIES), tokenize(DOCUMENTS), PAIRS)
        outputs.append(run(inputs, engine))
    np.testing.assert_allclose(*outputs, rtol=0, atol=1e-5 * np.ptp(outputs[0]))


def test_a_worker_of_built_in_models_loads_no_torch(tmp_path):
    import subprocess
    import sys

    if hardware.has_cuda():
        pytest.skip("with a CUDA device torch is what runs")
    code = (
        "import sys\n"
        "from nightrank.models import registry as r\n"
        "m = r.resolve_cross_encoder('builtin:reranker'), r.resolve_bi_encoder('builtin:minilm')\n"
        "r.load_tokenizer(m[0]), r.load_cross_encoder(m[0], 1), r.load_bi_encoder(m[1], 1)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_model_that_lacks_weights_is_refused_rather_than_completed_at_random(tmp_path):
    from safetensors.numpy import load_file, save_file

    tiny(tmp_path, "Bert")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["classifier.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    resolved = resolve_cross_encoder(str(tmp_path))
    with pytest.raises(NightrankError, match=r"lack 1 of the weights, e\.g\. classifier\.weight"):
        load_cross_encoder(resolved, 1)
