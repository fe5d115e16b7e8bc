"""What a folder declares beyond its weights, applied as sentence-transformers does or refused."""

import json
import warnings

import numpy as np
import pytest

from nightrank.errors import NightrankError
from nightrank.models.folders import semantics
from nightrank.models.folders.files import loaded_folders, model_files
from nightrank.models.registry import (
    load_bi_encoder,
    load_cross_encoder,
    load_tokenizer,
    resolve_bi_encoder,
    resolve_cross_encoder,
)
from tests.support import tiny_models
from tests.support.tiny_models import DOCUMENTS, PAIRS, tiny_bert, tiny_tokenizer

pytestmark = pytest.mark.models
DECLARED, FIRST = "config_sentence_transformers.json", "sentence_bert_config.json"
QUERIES = [*tiny_models.QUERIES, "The RED Wine of the River"]
TEMPLATE = "{% for m in messages %}the {{ m['content'] }} river{% endfor %}"


def edit(file, **fields):
    """Changes fields of a JSON object; None takes one away."""
    plain = json.loads(file.read_text()) if file.exists() else {}
    plain = {n: v for n, v in (plain | fields).items() if v is not None}
    file.write_text(json.dumps(plain))


def bi_encoder(tmp_path, *further, pooling="mean", include_prompt=True, uneven=True):
    """A folder of Transformer, Pooling and further modules."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    encoder, folder = tmp_path / "encoder", tmp_path / "model"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    tiny_bert(encoder)
    transformer = Transformer(str(encoder), max_seq_length=32)
    if uneven:  # So that vectors differ in length, and cosine from the dot product.
        with torch.no_grad():
            transformer.auto_model.encoder.layer[-1].output.LayerNorm.weight.uniform_(0.1, 4)
    pooled = Pooling(32, pooling_mode=pooling, include_prompt=include_prompt)
    SentenceTransformer(modules=[transformer, pooled, *further]).save(str(folder))
    return folder


def cross_encoder(tmp_path, **options):
    """A folder as `CrossEncoder.save_pretrained` writes it."""
    from sentence_transformers import CrossEncoder

    encoder, folder = tmp_path / "classifier", tmp_path / "model"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    tiny_bert(encoder)
    CrossEncoder(str(encoder), device="cpu", **options).save_pretrained(str(folder))
    return folder


def vectors(folder, **options):
    """Ours of queries and of documents, and whether a fast engine makes them."""
    from nightrank.models.engines.bi_encoders import TextBiEncoder

    resolved = resolve_bi_encoder(str(folder), precision="exact", **options)
    tokenizer, model = load_tokenizer(resolved), load_bi_encoder(resolved, 1)
    sides = [(QUERIES, "query"), (DOCUMENTS, "document")]
    outputs = [model.encode(tokenizer(texts), kind) for texts, kind in sides]
    return outputs, isinstance(model, TextBiEncoder)


def theirs(folder, **options):
    """sentence-transformers', of unit length where the model's similarity is cosine."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        outputs = [
            model.encode_query(QUERIES, **options),
            model.encode_document(DOCUMENTS, **options),
        ]
    if model.similarity_fn_name == "cosine":
        outputs = [
            vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-12)
            for vector in outputs
        ]
    return outputs, model


def same_vectors(folder, **options):
    """Holds both sides equal; returns whether a fast engine made ours."""
    (queries, documents), fast = vectors(folder, **options)
    expected, _ = theirs(folder)
    scale = max(1.0, float(np.abs(expected[0]).max()))
    np.testing.assert_allclose(queries, expected[0], atol=1e-5 * scale)
    np.testing.assert_allclose(documents, expected[1], atol=1e-5 * scale)
    return fast


def same_scores(folder):
    from sentence_transformers import CrossEncoder
    from torch import nn

    resolved = resolve_cross_encoder(str(folder), precision="exact")
    tokenizer = load_tokenizer(resolved)
    scored = load_cross_encoder(resolved, 1).score(tokenizer(QUERIES), tokenizer(DOCUMENTS), PAIRS)
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    texts = [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]
    expected = model.predict(texts, activation_fn=nn.Identity())
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scored, expected, rtol=0, atol=2e-5 * np.ptp(expected))
    return resolved


def refused(call, *says):
    with pytest.raises(NightrankError) as raised:
        call()
    assert raised.value.exit_code == 3 and "\n" not in str(raised.value)
    for part in says:
        assert part in str(raised.value)


@pytest.mark.parametrize("similarity", ["cosine", None, "dot"])
@pytest.mark.parametrize("pooling", ["mean", "max"])  # A fast engine, and the general one.
def test_dot_products_of_our_vectors_are_the_declared_similarity(tmp_path, similarity, pooling):
    folder = bi_encoder(tmp_path, pooling=pooling)
    edit(folder / DECLARED, similarity_fn_name=similarity)
    (queries, documents), fast = vectors(folder)
    expected, model = theirs(folder)
    np.testing.assert_allclose(
        queries @ documents.T, model.similarity(*expected).numpy(), rtol=1e-4, atol=1e-4
    )
    assert fast == (pooling == "mean")
    assert np.allclose(np.linalg.norm(documents, axis=1), 1.0) == (similarity != "dot")


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan"])
def test_distances_are_refused(tmp_path, similarity):
    folder = bi_encoder(tmp_path)
    edit(folder / DECLARED, similarity_fn_name=similarity)
    refused(lambda: resolve_bi_encoder(str(folder)), similarity, "cosine", DECLARED)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("normalized", [False, True])
def test_vectors_are_cut_as_the_folder_says_and_then_compared(tmp_path, similarity, normalized):
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder = bi_encoder(tmp_path, *([Normalize()] if normalized else []))
    edit(folder / DECLARED, similarity_fn_name=similarity, truncate_dim=8)
    assert resolve_bi_encoder(str(folder)).dimension == 8
    # A cut unit vector that is compared by dot product keeps its length below one.
    assert same_vectors(folder) == (not normalized or similarity == "cosine")


POOLINGS = ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]


@pytest.mark.parametrize("pooling", [*POOLINGS, ("cls", "mean"), ("mean", "max", "lasttoken")])
def test_every_pooling_and_combination(tmp_path, pooling):
    folder = bi_encoder(tmp_path, pooling=pooling)
    assert same_vectors(folder) == (pooling in ("cls", "mean"))


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ({"pooling_mode_cls_token": True}, True),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, False),
        ({}, True),
        ({"pooling_mode": ["cls"]}, True),
    ],
)
def test_older_forms_of_a_pooling(tmp_path, flags, fast):
    folder = bi_encoder(tmp_path)
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, **flags})
    )
    assert same_vectors(folder) == fast


@pytest.mark.parametrize("include_prompt", [True, False])
def test_prompts_of_a_bi_encoder_are_those_of_encode_query_and_encode_document(
    tmp_path, include_prompt
):
    folder = bi_encoder(tmp_path, include_prompt=include_prompt)
    prompts = {"query": "what is ", "document": "the river of "}
    edit(folder / DECLARED, prompts=prompts, default_prompt_name="query")
    assert same_vectors(folder) == include_prompt
    bare, _ = vectors(folder, query_prompt="", document_prompt="")
    expected, _ = theirs(folder, prompt="")
    np.testing.assert_allclose(bare[1], expected[1], atol=1e-5)
    assert not np.allclose(bare[1], theirs(folder)[0][1], atol=1e-3)


@pytest.mark.parametrize(
    ("declared", "options"),
    [
        ({"prompts": {"query": "what ", "passage": "river "}}, {"document_prompt": "river "}),
        (
            {"prompts": {"s2p": "what "}, "default_prompt_name": "s2p"},
            {"query_prompt": "what ", "document_prompt": ""},
        ),
    ],
)
def test_a_prompt_that_would_be_left_out_is_refused_until_the_config_decides(
    tmp_path, declared, options
):
    folder = bi_encoder(tmp_path)
    edit(folder / DECLARED, **declared)
    refused(lambda: resolve_bi_encoder(str(folder)), "prompt", "encoder.document_prompt")
    resolved = resolve_bi_encoder(str(folder), **options)
    assert resolved.document_prompt == options["document_prompt"]


def test_settings_of_the_first_module(tmp_path):
    folder = bi_encoder(tmp_path)
    edit(folder / FIRST, max_seq_length=12)
    assert resolve_bi_encoder(str(folder)).max_length_tokens == 12
    assert same_vectors(folder)
    edit(folder / FIRST, query_length=9, document_length=11)
    assert not same_vectors(folder)
    edit(folder / FIRST, query_length=None, processing_kwargs={"text": {"max_length": 8}})
    assert not same_vectors(folder)


@pytest.mark.parametrize("name", [FIRST, "sentence_roberta_config.json"])
def test_lower_case(tmp_path, name):
    folder = bi_encoder(tmp_path)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert same_vectors(folder)
    cased = vectors(folder)[0][0]
    (folder / FIRST).rename(folder / name)
    edit(folder / name, do_lower_case=True)
    assert not same_vectors(folder)
    assert not np.allclose(cased, vectors(folder)[0][0], atol=1e-3)


@pytest.mark.parametrize("side", ["truncation_side", "padding_side"])
def test_sides_of_the_tokenizer(tmp_path, side):
    folder = bi_encoder(tmp_path)
    edit(folder / "tokenizer_config.json", **{side: "left"})
    if side == "truncation_side":
        assert same_vectors(folder)
        return
    # Padded at the left, BERT's positions move with the batch; alone a text has no padding.
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    alone = np.stack([model.encode_document(text) for text in DOCUMENTS])
    alone /= np.linalg.norm(alone, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors(folder)[0][1], alone, atol=1e-5)


def test_further_modules(tmp_path):
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize

    torch.manual_seed(3)
    folder = bi_encoder(tmp_path, Dense(32, 24), LayerNorm(24), Normalize())
    assert resolve_bi_encoder(str(folder)).dimension == 24
    assert not same_vectors(folder)
    assert [part.name for part in loaded_folders(folder)[2:]] == [
        "2_Dense",
        "3_LayerNorm",
        "4_Normalize",
    ]


def test_a_table_of_vectors_takes_texts_of_any_length(tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(3)
    table = StaticEmbedding(tiny_tokenizer(tmp_path / "t"), embedding_dim=16)
    SentenceTransformer(modules=[table]).save(str(tmp_path / "model"))
    assert not same_vectors(tmp_path / "model")
    refused(lambda: resolve_bi_encoder(str(tmp_path / "model"), max_length_tokens=64), "any length")


def test_a_router_has_a_way_for_queries_and_one_for_documents(tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Pooling,
        Router,
        StaticEmbedding,
        Transformer,
    )

    torch.manual_seed(3)
    encoder = tmp_path / "encoder"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    tiny_bert(encoder)
    router = Router.for_query_document(
        query_modules=[StaticEmbedding(tiny_tokenizer(tmp_path / "t"), embedding_dim=32)],
        document_modules=[Transformer(str(encoder)), Pooling(32)],
    )
    folder = tmp_path / "model"
    SentenceTransformer(modules=[router]).save(str(folder))
    assert not same_vectors(folder)
    stored = {file.partition("/")[0] for file in model_files(folder) if "safetensors" in file}
    assert stored == {"query_0_StaticEmbedding", "document_0_Transformer"}


def test_a_chat_template_is_applied_where_the_folder_says_so(tmp_path):
    folder = bi_encoder(tmp_path)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert same_vectors(folder)  # Its settings name the text modality alone.
    plain = vectors(folder)[0][0]
    way = {"method": "forward", "method_output_name": "last_hidden_state"}
    edit(folder / FIRST, modality_config={"text": way, "message": {**way, "format": "flat"}})
    assert "chat_template.jinja" in model_files(folder)
    assert not same_vectors(folder)
    assert not np.allclose(plain, vectors(folder)[0][0], atol=1e-3)


def test_the_default_prompt_of_a_cross_encoder(tmp_path):
    prompts = {"query": "what is the ", "other": "river"}
    folder = cross_encoder(tmp_path, prompts=prompts, default_prompt_name="query")
    resolved = same_scores(folder)
    assert resolved.query_prompt == "what is the " and resolved.tokenizer.startswith("utf8")
    edit(folder / DECLARED, default_prompt_name=None)
    assert same_scores(folder).query_prompt == ""  # No name, no prompt.
    edit(folder / DECLARED, default_prompt_name="absent")
    refused(lambda: resolve_cross_encoder(str(folder)), "default_prompt_name", "absent")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_seq_length": 12},
        {"do_lower_case": True},
        {"processing_kwargs": {"text": {"max_length": 14}}},
        {"config_args": {"layer_norm_eps": 0.5}},
        {"tokenizer_args": {"truncation_side": "left"}},
    ],
)
def test_settings_of_a_cross_encoder(tmp_path, fields):
    folder = cross_encoder(tmp_path)
    edit(folder / FIRST, **fields)
    fast = same_scores(folder).family == "sequence_classification"
    assert fast == ("max_seq_length" in fields)


def test_layers_that_are_kept_in_float32(tmp_path):
    folder = cross_encoder(tmp_path, keep_in_fp32_modules=["0.model.classifier"])
    assert same_scores(folder).family == "sequence_classification"


@pytest.mark.parametrize("where", ["template", "declared"])
def test_a_cross_encoder_with_a_chat_template_is_read_through_it(tmp_path, where):
    tiny_tokenizer(tmp_path)
    tiny_bert(tmp_path)
    template = (
        "{% for m in messages %}{% if m['role'] == 'query' %}what is {% else %} river {% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    if where == "template":
        (tmp_path / "chat_template.jinja").write_text(template)
    else:
        edit(tmp_path / "tokenizer_config.json", chat_template=template)
    assert same_scores(tmp_path).family == "sentence_transformers"


def test_a_chain_of_modules_is_run_by_its_own_library(tmp_path):
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    torch.manual_seed(3)
    encoder, folder = tmp_path / "encoder", tmp_path / "model"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    tiny_bert(encoder)
    head = Dense(32, 1, module_output_name="scores")
    chain = [Transformer(str(encoder)), Pooling(32, pooling_mode="cls"), head]
    CrossEncoder(modules=chain, device="cpu").save_pretrained(str(folder))
    assert same_scores(folder).family == "sentence_transformers"


@pytest.mark.parametrize(
    ("named", "monotone"),
    [("Sigmoid", True), ("Identity", True), ("Tanh", True), ("ReLU", False), ("Softmax", False)],
)
def test_activations_that_lose_the_order_are_refused(tmp_path, named, monotone):
    folder = cross_encoder(tmp_path)
    path = f"torch.nn.{named}"
    for file, fields in (
        (DECLARED, {"activation_fn": path}),
        ("config.json", {"sentence_transformers": {"activation_fn": path}}),
        ("config.json", {"sbert_ce_default_activation_function": path}),
    ):
        edit(folder / DECLARED, activation_fn=None)
        edit(folder / "config.json", sentence_transformers=None)
        edit(folder / file, **fields)
        assert semantics.activation(folder) == path
        if monotone:
            same_scores(folder)
        else:
            refused(lambda: resolve_cross_encoder(str(folder)), named, "order")


def test_a_folder_of_another_kind_is_refused(tmp_path):
    folder = cross_encoder(tmp_path)
    refused(lambda: resolve_bi_encoder(str(folder)), "SentenceTransformer", "CrossEncoder")
    edit(folder / DECLARED, model_type="MultiVectorEncoder")
    for resolve in (resolve_bi_encoder, resolve_cross_encoder):
        refused(lambda resolve=resolve: resolve(str(folder)), "MultiVectorEncoder")
    edit(folder / DECLARED, model_type="SentenceTransformer")
    refused(lambda: resolve_cross_encoder(str(folder)), "expected a CrossEncoder")


def test_json_that_is_not_read_may_be_anything(tmp_path):
    folder = bi_encoder(tmp_path)
    (folder / "data_config.json").write_text('[{"name": "x.jsonl.gz", "lines": 1}]')
    (folder / "train_config.json").write_text("not JSON at all")
    assert same_vectors(folder)
    (folder / "tokenizer_config.json").write_text("[]")
    refused(lambda: resolve_bi_encoder(str(folder)), "tokenizer_config.json")


@pytest.mark.parametrize(
    "file",
    [
        "openvino/openvino_model.bin",
        "onnx/model.bin",
        "checkpoint-5/optimizer.pt",
        "training_args.bin",
    ],
)
def test_other_forms_of_the_weights_are_left_alone(tmp_path, file):
    folder = bi_encoder(tmp_path)
    digest = resolve_bi_encoder(str(folder)).digest
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"\x80\x04 pickled")
    (folder / file).with_suffix(".json").write_text("[]")
    expected = {"training_args.json"} if "/" not in file else set()
    assert {n for n in model_files(folder) if "args" in n or "/model" in n} - {
        "1_Pooling/config.json"
    } == expected
    assert (resolve_bi_encoder(str(folder)).digest == digest) == (not expected)


def test_pickled_weights_that_would_be_loaded_are_refused_by_name(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dense

    folder = bi_encoder(tmp_path, Dense(32, 24))
    weights = folder / "2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    refused(lambda: resolve_bi_encoder(str(folder)), "2_Dense/pytorch_model.bin", "convert")


def test_adapters_and_ways_out_of_the_folder_are_refused(tmp_path):
    folder = bi_encoder(tmp_path)
    listed = json.loads((folder / "modules.json").read_text())
    listed[1]["path"] = "../other"
    (folder / "modules.json").write_text(json.dumps(listed))
    refused(lambda: resolve_bi_encoder(str(folder)), "outside", "../other")
    listed[1]["path"] = "1_Pooling"
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "adapter_config.json").write_text("{}")
    refused(lambda: resolve_bi_encoder(str(folder)), "adapter", "merge")


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_missing_weights_are_not_drawn_at_random(tmp_path, pooling):
    from safetensors.torch import load_file, save_file

    folder = bi_encoder(tmp_path, pooling=pooling)
    tensors = load_file(folder / "model.safetensors")
    name = next(n for n in tensors if "layer.1.output.dense.weight" in n)
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refused(lambda: resolve_bi_encoder(str(folder)), "lack 1 of the weights", "layer.1.output")


def test_an_older_folder_keeps_its_network_with_the_first_module(tmp_path):
    folder = bi_encoder(tmp_path)
    first = folder / "0_Transformer"
    first.mkdir()
    kept = ("modules.json", DECLARED)
    for file in [f for f in folder.iterdir() if f.is_file() and f.name not in kept]:
        file.rename(first / file.name)
    listed = json.loads((folder / "modules.json").read_text())
    listed[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "training_args.bin").write_bytes(b"\x80\x04")
    assert not same_vectors(folder)
    assert resolve_bi_encoder(str(folder)).max_length_tokens == 32


def test_a_language_model_with_a_score_of_two_tokens(tmp_path):
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(3)
    encoder, folder = tmp_path / "encoder", tmp_path / "model"
    encoder.mkdir()
    tiny_tokenizer(encoder)
    edit(encoder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(
        vocab_size=len(tiny_models.WORDS), **shape, **heads, pad_token_id=0, initializer_range=0.5
    )
    Qwen3ForCausalLM(config).save_pretrained(encoder)
    chain = [Transformer(str(encoder), transformer_task="text-generation"), LogitScore(5, 6)]
    CrossEncoder(modules=chain, device="cpu").save_pretrained(str(folder))
    assert same_scores(folder).family == "sentence_transformers"


def test_tokenizers_with_other_vocabularies_do_not_share_stored_tokens(tmp_path):
    """Without a tokenizer.json the vocabulary is a file of its own."""
    from nightrank.models.text.tokenizers import spliced_name

    names = set()
    for words in ("river bank", "bank river"):
        folder = tmp_path / words
        folder.mkdir()
        (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
        (folder / "vocab.txt").write_text("\n".join(words.split()))
        names.add(spliced_name(folder, 512))
    assert len(names) == 2
