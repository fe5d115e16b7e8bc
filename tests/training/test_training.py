import numpy as np
import pytest

from nightrank.models.text.batching import pack
from nightrank.storage.tokens import Tokens

torch = pytest.importorskip("torch")

from nightrank.models.engines.interaction import InteractionReranker  # noqa: E402
from nightrank.models.engines.reranker_tensors import merge_delta  # noqa: E402
from nightrank.models.text.inputs import SplicedInputs  # noqa: E402
from nightrank.models.text.splicing import Splicer, Template  # noqa: E402
from nightrank.training import checkpoints, low_rank  # noqa: E402
from nightrank.training.groups import Draw, Example, Source, plan_step  # noqa: E402
from nightrank.training.loop import Options, learning_rate, score_pairs, train  # noqa: E402
from nightrank.training.losses import group_loss  # noqa: E402
from nightrank.training.trainee import Trainee  # noqa: E402

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


def trainee_of(network):
    def forward(ids, mask, batch):
        first, lengths = torch.from_numpy(batch.first_lengths), torch.from_numpy(batch.lengths)
        return network(ids, mask, first, lengths)

    return Trainee(
        network,
        torch.device("cpu"),
        lambda texts: Tokens.from_lists([]),
        lambda queries, documents, pairs: SplicedInputs(SPLICER, queries, documents, pairs),
        forward,
        lambda folder, weight: {},
    )


def score(network, pairs):
    queries = Tokens.from_lists(query for query, _ in pairs)
    documents = Tokens.from_lists(document for _, document in pairs)
    rows = np.stack([np.arange(len(pairs))] * 2, axis=1).astype(np.int32)
    with torch.inference_mode():
        return score_pairs(trainee_of(network), queries, documents, rows, 64, False).numpy()


def options(steps=6, **changes):
    plain = {
        "draw": Draw(steps=steps, groups_per_step=4, negatives=2, seed=1),
        "loss": "listwise",
        "teacher_temperature": 1.0,
        "learning_rate": 1e-2,
        "warmup_steps": 1,
        "weight_decay": 0.01,
        "groups_per_pass": 4,
        "token_budget": 64,
        "bf16": False,
        "time_limit_s": 600.0,
        "checkpoint_every": 3,
        "patience": 0,
    }
    return Options(**(plain | changes))


def source(name="s", weight=1.0, taught=False):
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 64, size=rng.integers(1, 12)).tolist() for _ in range(20)]
    targets = [2.0, 1.0, 0.5, 0.0, -1.0, -3.0] if taught else []
    examples = [Example(documents[i][:2], documents[i : i + 6], targets) for i in range(10)]
    return Source(name, examples, weight)


def trained(folder, *runs, sources=None, evaluate=lambda: 1.0):
    folder.mkdir(exist_ok=True)
    for run in runs:
        network = tiny_network()
        low_rank.make_trainable(network, 4, 1.0, 0)
        state = train(
            trainee_of(network), sources or [source()], run, folder=folder, evaluate=evaluate
        )
    return network, state


def assert_same(one, other, **tolerance):
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    for (name, mine), (_, theirs) in pairs:
        torch.testing.assert_close(mine, theirs, msg=name, **tolerance)


def test_an_empty_side_and_padding_do_not_disturb_scores():
    model = tiny_network()
    pairs = [([], [5, 6]), ([5], []), ([5, 6, 7], [8] * 40), ([5, 6, 7], [8, 9])]
    together = score(model, pairs)
    assert np.isfinite(together).all()
    alone = np.concatenate([score(model, [pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len(pack(SPLICER.lengths(np.array([3, 3]), np.array([40, 2])), 64)) == 1


def test_losses_by_hand():
    def loss(scores, targets, kind, temperature=1.0):
        return float(group_loss(torch.tensor(scores), targets, kind, temperature))

    assert loss([0.0, 0.0], [], "listwise") == pytest.approx(np.log(2))
    assert loss([0.0, 1.0], [], "listwise") == pytest.approx(np.log(1 + np.e))
    # 1 - (0 - 2) = 3 and 1 - (0 + 3) < 0
    assert loss([0.0, 2.0, -3.0], [], "margin") == pytest.approx(1.5)
    wanted = np.exp([2.0, 1.0]) / np.exp([2.0, 1.0]).sum()
    expected = -(wanted * np.log(0.5)).sum()
    assert loss([7.0, 7.0], [4.0, 2.0], "listwise", 2.0) == pytest.approx(expected)
    # Differences of 1 and 4 where the teacher wants 2 and 3.
    assert loss([5.0, 4.0, 1.0], [6.0, 2.0, 0.0], "margin", 2.0) == pytest.approx(1.0)


def test_the_rate_rises_and_falls():
    rates = [learning_rate(options(steps=100, warmup_steps=10), step) for step in range(100)]
    assert np.argmax(rates) == 9 and rates[9] == pytest.approx(1e-2)
    assert rates[0] == pytest.approx(1e-3) and rates[99] < 1e-5


def test_steps_are_pure_functions_of_seed_and_cover_epochs():
    sources = [source("a", 0.75), source("b", 0.25)]
    draw = options(steps=20).draw
    steps = [plan_step(sources, draw, step) for step in range(20)]
    assert steps[7] == plan_step(sources, draw, 7)
    chosen = [tuple(e.documents[0]) for step in steps for e in step]
    assert len(chosen) == 80 and len(set(chosen)) == 10
    assert all(len(e.documents) == 3 for step in steps for e in step)


def test_a_teachers_groups_keep_their_scores_best_first():
    taught = source(taught=True)
    texts = {tuple(e.query): e for e in taught.examples}
    for group in plan_step([taught], options().draw, 0):
        whole = texts[tuple(group.query)]
        assert len(group.documents) == len(group.targets) == 3
        assert list(group.targets) == sorted(group.targets, reverse=True)
        for document, target in zip(group.documents, group.targets, strict=True):
            assert whole.targets[whole.documents.index(document)] == target


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path):
    whole, state = trained(tmp_path / "whole", options())
    assert (state.step, state.best_step, state.pairs) == (6, 0, 72)
    # A limit of 0 s stops after one step of each process.
    parts, state = trained(tmp_path / "parts", options(time_limit_s=0.0), options())
    assert (state.step, state.pairs) == (6, 72)
    assert_same(whole, parts)


def test_gradients_add_up_over_passes(tmp_path):
    whole, _ = trained(tmp_path / "whole", options(steps=1))
    parts, _ = trained(tmp_path / "parts", options(steps=1, groups_per_pass=1))
    assert_same(whole, parts, atol=1e-5, rtol=1e-3)


def test_training_stops_when_the_dev_score_no_longer_rises(tmp_path):
    scores = iter([0.4, 0.5, 0.7, 0.6, 0.65, 0.9])
    run = options(steps=30, patience=2)
    _, state = trained(tmp_path / "early", run, evaluate=lambda: next(scores))
    assert (state.step, state.best_step, state.best_score) == (12, 6, 0.7)
    assert state.first_score == 0.4
    # Asked again, it knows that it was finished.
    _, again = trained(tmp_path / "early", run, evaluate=lambda: next(scores))
    assert again.step == 12 and next(scores) == 0.9


def test_without_dev_queries_the_last_weights_are_the_best(tmp_path):
    network, state = trained(tmp_path / "m", options(), evaluate=None)
    assert state.best_step == 6
    best = checkpoints.load(tmp_path / "m" / "best.safetensors")[0]
    assert all(torch.equal(best[n], p) for n, p in network.named_parameters() if n in best)


@pytest.mark.parametrize("loss", ["listwise", "margin"])
@pytest.mark.parametrize("taught", [False, True])
def test_every_loss_is_learnt(tmp_path, loss, taught):
    examples = [source(taught=taught)]
    groups = plan_step(examples, options().draw, 0)

    def mean(network):
        losses = []
        for group in groups:
            group_scores = score(network, [(group.query, d) for d in group.documents])
            losses.append(
                float(group_loss(torch.from_numpy(group_scores), group.targets, loss, 1.0))
            )
        return np.mean(losses)

    network, _ = trained(tmp_path / "m", options(steps=40, loss=loss), sources=examples)
    assert mean(network) < 0.9 * mean(tiny_network())


def test_a_difference_survives_export_and_merge(tmp_path):
    model = tiny_network()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    low_rank.make_trainable(model, 4, 0.5, 0)
    initial = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    arguments = {"folder": tmp_path, "evaluate": lambda: 1.0}
    train(trainee_of(model), [source()], options(), **arguments)
    delta = low_rank.export_delta(model, initial)
    assert all(tensor.dtype == torch.float16 for tensor in delta.values())

    pairs = [([5, 6], [7, 8, 9]), ([4], [4, 5])]
    merged = tiny_network()
    assert np.abs(score(merged, pairs) - score(model, pairs)).max() > 1e-3
    arrays = {name: tensor.numpy() for name, tensor in fresh.items()}
    merge_delta(arrays, {name: tensor.float().numpy() for name, tensor in delta.items()}, 0.5)
    merged.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    np.testing.assert_allclose(score(merged, pairs), score(model, pairs), atol=5e-3)
    whole = tiny_network()
    whole.load_state_dict(low_rank.merged_state(model))
    np.testing.assert_allclose(score(whole, pairs), score(model, pairs), atol=1e-5)
