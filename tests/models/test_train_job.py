import gzip
import json

import pytest

from jobs.cli import app
from jobs.terminal import guarded

pytestmark = pytest.mark.models
TOPICS = ["glaucoma", "asthma", "copper", "granite", "violin", "harbour", "tariff", "lease"]
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


@pytest.fixture
def config(tmp_path):
    def write(name, rows):
        with gzip.open(tmp_path / name, "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)

    write("corpus.jsonl.gz", [{"_id": t, "title": t, "text": f"about {t}"} for t in TOPICS])
    write("queries.jsonl.gz", [{"_id": f"q{t}", "text": f"what is {t}"} for t in TOPICS])
    header = "query-id\tcorpus-id\tscore\n"
    lines = "".join(f"q{t}\t{t}\t1\n" for t in TOPICS)
    (tmp_path / "qrels.tsv").write_text(header + lines)
    (tmp_path / "reported.tsv").write_text(f"{header}qlease\tlease\t1\n")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(data=tmp_path))
    return path


def main(*arguments):
    return guarded(lambda **_: app(["train-reranker", *arguments]))


def test_the_job_trains_writes_and_resumes(config, capsys):
    assert main(str(config)) == 0
    out = config.parent / "out"
    report = json.loads((out / "report.json").read_text())
    assert report["collections"]["topics"] == {"groups": 5, "dropped": 1, "held_out": 2}
    assert report["training"]["step"] == 1
    assert "1.00" in json.loads(capsys.readouterr().out)
    written = (out / "model" / "delta.safetensors").read_bytes()
    assert main(str(config)) == 0
    assert (out / "model" / "delta.safetensors").read_bytes() == written


def test_bad_configs_end_with_exit_code_2(config, capsys):
    assert main(str(config), "--set", "rank=0") == 2
    assert main(str(config), "--set", "data=/nowhere") == 2
    errors = capsys.readouterr().err
    assert "E_CONFIG" in errors and "rank" in errors and "cannot read" in errors
