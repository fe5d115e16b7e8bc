import numpy as np
import pytest

from pipelines.models.batching import pack

torch = pytest.importorskip("torch")

from pipelines.models import low_rank  # noqa: E402
from pipelines.models.interaction import InteractionReranker  # noqa: E402
from pipelines.models.splicing import Splicer, Template  # noqa: E402
from pipelines.models.training import (  # noqa: E402
    Example,
    Options,
    Source,
    learning_rate,
    listwise_loss,
    plan_step,
    score_pairs,
    train,
)

SPLICER = Splicer(Template((1,), (2,), (2,), (0, 0, 0, 1, 1)), 32, 0)


def tiny_network():
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return InteractionReranker(BertModel(config, add_pooling_layer=False), 16).eval()


def score(model, pairs):
    with torch.inference_mode():
        return score_pairs(model, pairs, splicer=SPLICER, token_budget=64, bf16=False).numpy()


def options(**changes):
    plain = {
        "steps": 6,
        "groups_per_step": 4,
        "negatives": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "weight_decay": 0.01,
        "token_budget": 64,
        "bf16": False,
        "seed": 1,
        "time_limit_s": 600.0,
        "checkpoint_every": 3,
    }
    return Options(**(plain | changes))


def source(name="s", weight=1.0):
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 64, size=rng.integers(1, 12)).tolist() for _ in range(20)]
    examples = [
        Example(documents[i][:2], documents[i], documents[i + 1 : i + 6]) for i in range(10)
    ]
    return Source(name, examples, weight)


def test_an_empty_side_and_padding_do_not_disturb_scores():
    model = tiny_network()
    pairs = [([], [5, 6]), ([5], []), ([5, 6, 7], [8] * 40), ([5, 6, 7], [8, 9])]
    together = score(model, pairs)
    assert np.isfinite(together).all()
    alone = np.concatenate([score(model, [pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len(pack(SPLICER.lengths(np.array([3, 3]), np.array([40, 2])), 64)) == 1


def test_listwise_loss_by_hand():
    scores = torch.tensor([0.0, 0.0, 0.0, 1.0])
    expected = (np.log(2) + np.log(1 + np.e)) / 2
    assert float(listwise_loss(scores, [2, 2])) == pytest.approx(expected)


def test_the_rate_rises_and_falls():
    rates = [learning_rate(options(steps=100, warmup_steps=10), step) for step in range(100)]
    assert np.argmax(rates) == 9 and rates[9] == pytest.approx(1e-2)
    assert rates[0] == pytest.approx(1e-3) and rates[99] < 1e-5


def test_steps_are_pure_functions_of_seed_and_cover_epochs():
    sources = [source("a", 0.75), source("b", 0.25)]
    run = options(steps=20)
    steps = [plan_step(sources, run, step) for step in range(20)]
    assert steps[7] == plan_step(sources, run, 7)
    chosen = [tuple(e.positive) for step in steps for e in step]
    assert len(chosen) == 80 and len(set(chosen)) == 10
    assert all(len(e.negatives) == 2 for step in steps for e in step)


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    def trained(folder, *runs):
        folder.mkdir()
        for run in runs:
            model = tiny_network()
            low_rank.make_trainable(model, 4, 1.0, 0)
            arguments = {"splicer": SPLICER, "folder": folder, "evaluate": lambda m: 1.0}
            state = train(model, [source()], run, **arguments)
        return model, state

    whole, state = trained(tmp_path / "whole", options())
    assert (state["step"], state["best_step"]) == (6, 3)
    # A limit of 0 s stops after one step of each process.
    parts, state = trained(tmp_path / "parts", options(time_limit_s=0.0), options())
    assert state["step"] == 6
    for (name, one), (_, other) in zip(
        whole.named_parameters(), parts.named_parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, msg=name)


def test_a_difference_survives_export_and_merge(tmp_path):
    model = tiny_network()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    low_rank.make_trainable(model, 4, 0.5, 0)
    initial = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    evaluate = {"splicer": SPLICER, "folder": tmp_path, "evaluate": lambda m: 1.0}
    train(model, [source()], options(), **evaluate)
    delta = low_rank.export_delta(model, initial)
    assert all(tensor.dtype == torch.float16 for tensor in delta.values())

    pairs = [([5, 6], [7, 8, 9]), ([4], [4, 5])]
    merged = tiny_network()
    assert np.abs(score(merged, pairs) - score(model, pairs)).max() > 1e-3
    low_rank.merge_delta(fresh, delta, 0.5)
    merged.load_state_dict(fresh)
    np.testing.assert_allclose(score(merged, pairs), score(model, pairs), atol=5e-3)
