"""The training job as its users run it, on a few words."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.models.registry import load_cross_encoder, load_tokenizer, resolve_cross_encoder

pytestmark = pytest.mark.models
TOPICS = ["apple", "pie", "wine", "river", "bank", "water", "money", "red"]
CONFIG = """
data: {data}
output: {data}/out
collections:
  - name: topics
    corpus: corpus.jsonl.gz
    queries: queries.jsonl.gz
    qrels: [qrels.tsv]
    weight: 1.0
    dev_queries: 2
reported:
  - {{queries: queries.jsonl.gz, qrels: reported.tsv}}
steps: 1
warmup_steps: 1
learning_rate: 1.0e-4
rank: 2
groups_per_step: 2
negatives: 2
max_length_tokens: 32
threads: 1
checkpoint_every: 1
"""
FIRST = "collections.0"


@pytest.fixture
def config(tmp_path):
    data = tmp_path / "data"
    data.mkdir()

    def write(name, rows):
        with gzip.open(data / name, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    write("corpus.jsonl.gz", [{"_id": t, "title": t, "text": f"the {t} is"} for t in TOPICS])
    write("queries.jsonl.gz", [{"_id": f"q{t}", "text": f"what is {t}"} for t in TOPICS])
    header = "query-id\tcorpus-id\tscore\n"
    lines = "".join(f"q{t}\t{t}\t1\n" for t in TOPICS)
    (data / "qrels.tsv").write_text(header + lines)
    (data / "reported.tsv").write_text(f"{header}qred\tred\t1\n")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(data=data))
    return path


@pytest.fixture
def teacher(config):
    """A teacher that likes the topic, and every other document by its place."""
    rows = [
        {"query_id": f"q{t}", "doc_id": other, "rerank_score": 9.0 if t == other else -float(i)}
        for t in TOPICS
        for i, other in enumerate(TOPICS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), config.parent / "data" / "teacher.parquet")
    return ["--set", f"{FIRST}.teacher=teacher.parquet"]


def main(*arguments):
    return guarded(lambda **_: app(["train-reranker", *map(str, arguments)]))


def sets(*pairs):
    return [part for pair in pairs for part in ("--set", pair)]


def scores_of(folder):
    resolved = resolve_cross_encoder(str(folder), precision="exact")
    tokenize = load_tokenizer(resolved)
    queries, documents = [f"what is {t}" for t in TOPICS], [f"{t} the {t} is" for t in TOPICS]
    pairs = np.array([[i, j] for i in range(8) for j in range(8)], np.int32)
    model = load_cross_encoder(resolved, 1)
    model_scores = model.score(tokenize(queries), tokenize(documents), pairs)
    return [(queries[i], documents[j]) for i, j in pairs], model_scores, resolved


def test_the_job_trains_writes_and_resumes(config, capsys):
    assert main(config) == 0
    out = config.parent / "data" / "out"
    report = json.loads((out / "report.json").read_text())
    assert report["collections"]["topics"] == {"groups": 5, "dropped": 1, "held_out": 2}
    assert (report["training"]["step"], report["training"]["pairs"]) == (1, 6)
    assert "1.00" in json.loads(capsys.readouterr().out)
    written = (out / "model" / "delta.safetensors").read_bytes()
    assert main(config) == 0
    assert (out / "model" / "delta.safetensors").read_bytes() == written
    # What it wrote is a model by its folder, and not the shipped one.
    _, model_scores, resolved = scores_of(out / "model")
    assert resolved.family == "minilm" and np.isfinite(model_scores).all()
    assert resolved.digest != resolve_cross_encoder("builtin:reranker").digest


def test_training_goes_on_from_the_built_in_reranker(config):
    """A rate of nearly nothing leaves it as it was, its rank and scale included."""
    assert main(config, *sets("base=builtin:reranker", "rank=64", "learning_rate=1.0e-12")) == 0
    _, model_scores, _ = scores_of(config.parent / "data" / "out" / "model")
    _, expected, _ = scores_of("builtin:reranker")
    np.testing.assert_allclose(model_scores, expected, atol=1e-3)


def test_another_config_or_other_data_train_anew(config):
    def train_again():
        assert main(config) == 0
        report = json.loads((config.parent / "data" / "out" / "report.json").read_text())
        return report["training"]["step"], len(list(work.glob("training-*")))

    work = config.parent / "data" / "out" / "work"
    assert train_again() == (1, 1)
    config.write_text(config.read_text().replace("steps: 1", "steps: 2"))
    assert train_again() == (2, 2)
    with (config.parent / "data" / "qrels.tsv").open("a") as file:
        file.write("qapple\tpie\t1\n")
    assert train_again() == (2, 3)


@pytest.mark.parametrize("rank", [0, 2])
def test_any_encoder_learns_from_a_teacher_and_becomes_a_plain_folder(
    config, teacher, tiny_cross_encoder, rank, tmp_path
):
    from sentence_transformers import CrossEncoder

    more = sets(
        f"base={tiny_cross_encoder}",
        "head=classifier",
        f"rank={rank}",
        f"{FIRST}.dev_queries=0",
        "steps=60",
        "checkpoint_every=60",
        "learning_rate=3.0e-3",
        "groups_per_pass=1",
        "bf16=false",
        "loss=margin",
        "negatives=4",
        "teacher_temperature=5.0",
    )
    assert main(config, *teacher, *more) == 0
    folder = config.parent / "data" / "out" / "model"
    pairs, model_scores, resolved = scores_of(folder)
    report = json.loads((folder.parent / "report.json").read_text())
    weight = report["config"]["nightrank"]["recommended_first_stage_weight"]
    assert resolved.recommended_first_stage_weight == weight
    peer = CrossEncoder(str(folder), device="cpu")
    np.testing.assert_allclose(peer.predict(pairs), model_scores, atol=1e-5)
    # The teacher sees the topic far above the rest; before training nothing did.
    _, before, _ = scores_of(tiny_cross_encoder)
    ranks = [
        (table.argmax(axis=1) == np.arange(8)).sum() for table in _square(before, model_scores)
    ]
    assert ranks[1] > ranks[0]


def _square(*scores):
    return [model_scores.reshape(8, 8) for model_scores in scores]


@pytest.mark.ray
def test_two_workers_train_what_one_trains(config, tiny_cross_encoder, ray_cluster):
    more = sets(
        f"base={tiny_cross_encoder}",
        "head=classifier",
        f"{FIRST}.dev_queries=0",
        "steps=3",
        "learning_rate=1.0e-3",
        "bf16=false",
        "bm25_weight=0",
    )
    out = config.parent / "data"
    assert main(config, *more, "--set", f"output={out}/one") == 0
    assert main(config, *more, "--set", f"output={out}/two", "--set", "workers=2") == 0
    one, two = (scores_of(out / name / "model")[1] for name in ("one", "two"))
    # A listwise loss is blind to what all scores share: there only rounding moves them.
    np.testing.assert_allclose(one - one.mean(), two - two.mean(), atol=1e-4)
    untrained = scores_of(tiny_cross_encoder)[1]
    assert np.abs(one - one.mean() - untrained + untrained.mean()).max() > 1e-2


def test_bad_configs_end_with_exit_code_2(config, capsys):
    assert main(config, *sets("rank=-1")) == 2
    assert main(config, *sets("data=/nowhere")) == 2
    assert main(config, *sets("patience=2", f"{FIRST}.dev_queries=0")) == 2
    assert main(config, *sets("base=builtin:reranker")) == 2
    assert main(config, *sets("base=some/where")) == 3
    assert main(config, *sets(f"{FIRST}.teacher=qrels.tsv")) == 2
    errors = capsys.readouterr().err
    for part in ("E_CONFIG", "rank 2 ", "cannot read", "patience", "revision", "teacher"):
        assert part in errors
