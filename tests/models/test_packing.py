"""What a GPU runs, by the same code but for the kernel of the attention itself."""

import numpy as np
import pytest

from nightrank.models.registry import load_cross_encoder, load_tokenizer, resolve_cross_encoder
from nightrank.models.text.inputs import SplicedInputs
from nightrank.models.text.pieces import Batch
from nightrank.models.text.splicing import Splicer, Template
from nightrank.storage.tokens import Tokens
from tests.support.tiny_models import (
    DECODERS,
    DOCUMENTS,
    FAMILIES,
    PAIRS,
    QUERIES,
    batch,
    by_sentence_transformers,
    decoder,
    tiny,
)

torch = pytest.importorskip("torch")

from nightrank.models.engines import packing, torch_engine, torch_models  # noqa: E402

pytestmark = pytest.mark.models
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def attention():
    """The kernel's definition, row for row, where it is asked on a CPU."""
    from torch.nn.attention import varlen

    def by_definition(q, k, v, q_starts, k_starts, q_longest, k_longest, is_causal=False, *others):
        scale, window, gqa, _, _, splits = others
        assert window == ([-1, 0] if is_causal else [-1, -1]) and gqa and splits == 1
        mixed = torch.empty_like(q)
        q_at, k_at = q_starts.tolist(), k_starts.tolist()
        assert max(np.diff(q_at)) == q_longest and max(np.diff(k_at)) == k_longest
        for row in range(len(q_at) - 1):
            of = [
                part[None, start[row] : start[row + 1]].transpose(1, 2)
                for part, start in ((q, q_at), (k, k_at), (v, k_at))
            ]
            one = torch.nn.functional.scaled_dot_product_attention(
                *of, scale=scale, is_causal=is_causal, enable_gqa=True
            )
            mixed[q_at[row] : q_at[row + 1]] = one[0].transpose(0, 1)
        sums = torch.empty(q.shape[1], len(q))
        return mixed, sums, torch.zeros(2, dtype=torch.uint64)

    varlen._varlen_attn.register_kernel("cpu")(by_definition)


def engine_of(folder, kind, takes):
    """An engine whose head gives the tokens that it takes, their mean where all."""
    from transformers import AutoModel

    typed, behind = kind == "Bert", int("Roberta" in kind)
    encoder = AutoModel.from_pretrained(str(folder))
    encoder.pooler = None

    def head(padded):
        if takes == "all":
            return torch_engine.mean_pooling(padded)
        return padded.hidden[:, 0]

    return torch_engine.TorchEngine(encoder, head, CPU, typed, behind, takes)


def packed(engine, first=False):
    packing.use_varlen(engine._encoder)
    if first:
        packing.keep_first_tokens(engine._encoder)
    engine._packed = True
    return engine


@pytest.mark.parametrize("takes", ["all", "first"])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_give_what_padded_rows_give(tmp_path, family, takes):
    kind, changes = FAMILIES[family]
    tiny(tmp_path, kind, **changes)
    rows = batch([17, 3, 1, 9])
    expected = engine_of(tmp_path, kind, takes).start(rows)
    outputs = packed(engine_of(tmp_path, kind, takes), takes == "first").start(rows)
    assert expected.shape == (4, 32) and expected.std() > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


def test_pairs_and_their_token_types_are_put_together_as_on_a_cpu(tmp_path):
    tiny(tmp_path, "Bert")
    tokens = [Tokens.from_lists([[7, 8, 9], [], [11] * 30]), Tokens.from_lists([[12] * 9, [6, 5]])]
    pairs = np.array([[0, 0], [1, 1], [2, 0], [2, 1], [0, 1]], np.int32)
    outputs = []
    for types in ((0, 0, 0, 1, 1), (0, 0, 0, 0, 0)):
        splicer = Splicer(Template((2,), (3,), (3,), types), 20, 0)
        rows = SplicedInputs(splicer, *tokens, pairs).batch(np.array([4, 2, 0, 1, 3]))
        expected = engine_of(tmp_path, "Bert", "all").start(rows)
        outputs.append(packed(engine_of(tmp_path, "Bert", "all")).start(rows))
        np.testing.assert_allclose(outputs[-1], expected, rtol=0, atol=1e-5)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


@pytest.mark.parametrize("kind", DECODERS)
def test_packed_decoders_give_what_padded_ones_give(tmp_path, kind):
    decoder(tmp_path, kind)
    rows = batch([17, 3, 1, 9])
    expected = engine_of(tmp_path, kind, "last").start(rows)
    outputs = packed(engine_of(tmp_path, kind, "last")).start(rows)
    assert expected.std() > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [*DECODERS, "Gemma2"])
def test_decoders_equal_sentence_transformers(tmp_path, kind):
    decoder(tmp_path, kind)
    resolved = resolve_cross_encoder(str(tmp_path), precision="exact")
    tokenizer, model = load_tokenizer(resolved), load_cross_encoder(resolved, 1)
    assert isinstance(model._engine, torch_engine.TorchEngine) == (kind in DECODERS)
    outputs = model.score(tokenizer(QUERIES), tokenizer(DOCUMENTS), PAIRS)
    expected = by_sentence_transformers(tmp_path, resolved.max_length_tokens)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("padding", [None, 5])
def test_a_decoders_rows_end_where_they_end_whatever_its_config_calls_padding(tmp_path, padding):
    from transformers import AutoModelForSequenceClassification

    decoder(tmp_path, pad_token_id=padding)
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tmp_path))
    rows = batch([9, 3, 5])
    rows.source.ids[rows.source.ids == 5] = 6
    alone = [Batch.of_rows(rows.source, rows.starts[n, :1], rows.lengths[[n]], 0) for n in range(3)]
    mine = torch_models.decoder_engine(theirs, CPU)
    expected = [mine.start(one)[0] for one in alone]
    np.testing.assert_allclose(mine.start(rows), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(packed(mine).start(rows), expected, rtol=0, atol=1e-5)


def test_a_decoders_last_token_is_never_padding(tmp_path):
    """As transformers itself looks for it: a text may end with the padding token."""
    from transformers import AutoModelForSequenceClassification

    decoder(tmp_path)
    rows = batch([17, 3, 9])
    rows.source.ids[[19, 27, 28]] = 0
    theirs = AutoModelForSequenceClassification.from_pretrained(str(tmp_path))
    inside = np.arange(17) < rows.lengths[:, None]
    with torch.inference_mode():
        expected = theirs(
            input_ids=torch.from_numpy(rows.input_ids).long(),
            attention_mask=torch.from_numpy(inside.astype(np.int64)),
        ).logits[:, 0]
    mine = torch_models.decoder_engine(theirs, CPU)
    np.testing.assert_allclose(mine.start(rows), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(packed(mine).start(rows), expected, rtol=0, atol=1e-5)


def test_what_can_run_packed(tmp_path):
    tiny(tmp_path, "Bert")
    encoder = engine_of(tmp_path, "Bert", "all")._encoder
    assert not packing.can_pack(encoder)  # float32 has no such kernel
    assert packing.can_pack(encoder.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Mistral", {"sliding_window": 8}),
        ("Gemma2", {}),
        ("Qwen2", {"is_causal": False}),
        ("Llama", {"head_dim": 12}),
    ],
)
def test_what_asks_more_of_its_attention_does_not_run_packed(tmp_path, kind, changes):
    for name, packs in (("plain", True), ("more", False)):
        (tmp_path / name).mkdir()
        more = (kind, changes) if name == "more" else ("Mistral", {})
        decoder(tmp_path / name, more[0], **more[1])
        encoder = engine_of(tmp_path / name, more[0], "last")._encoder.to(torch.bfloat16)
        assert packing.can_pack(encoder) == packs


@pytest.mark.parametrize("family", [*FAMILIES, "qwen3"])
def test_layers_are_compiled_once_for_all_lengths(tmp_path, family, monkeypatch):
    from torch._dynamo.utils import counters

    if family == "qwen3":
        decoder(tmp_path)
        kind, takes = "Qwen3", "last"
    else:
        kind, changes = FAMILIES[family]
        tiny(tmp_path, kind, num_hidden_layers=3, **changes)
        takes = "first"
    usual, compiled = engine_of(tmp_path, kind, takes), engine_of(tmp_path, kind, takes)
    for engine in (usual, compiled):
        packed(engine, takes == "first")
    torch._dynamo.reset()
    counters.clear()
    compiling = torch.nn.Module.compile
    # The graph is what matters here; inductor needs half a minute for it on a CPU.
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compiling(self, backend="eager", **how)
    )
    packing.compile_layers(compiled._encoder)
    for seed, lengths in enumerate(([17, 3, 2, 9], [5, 4], [30], [2, 2, 2], [40, 33, 12, 6, 6])):
        rows = batch(lengths, seed)
        np.testing.assert_allclose(compiled.start(rows), usual.start(rows), rtol=0, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_compiler_that_fails_costs_time_alone(tmp_path, monkeypatch):
    tiny(tmp_path, "Bert")
    usual, compiled = (packed(engine_of(tmp_path, "Bert", "all")) for _ in range(2))
    torch._dynamo.reset()
    graphs = []

    def broken(graph, inputs):
        graphs.append(graph)
        raise RuntimeError("no triton")

    compiling = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **how: compiling(self, backend=broken, **how)
    )
    monkeypatch.setattr(torch._dynamo.config, "suppress_errors", False)
    packing.compile_layers(compiled._encoder)
    rows = batch([17, 3, 9])
    np.testing.assert_allclose(compiled.start(rows), usual.start(rows), rtol=0, atol=1e-6)
    assert graphs


def test_without_a_compiler_nothing_is_compiled(tmp_path, monkeypatch, caplog):
    tiny(tmp_path, "Bert")
    engine = packed(engine_of(tmp_path, "Bert", "all"))
    monkeypatch.setattr(packing, "can_compile", lambda: False)
    monkeypatch.setattr(torch.nn.Module, "compile", None)
    with caplog.at_level("WARNING"):
        packing.compile_layers(engine._encoder)
    assert "no C compiler" in caplog.text and engine.start(batch([3, 4])).shape == (2, 32)
