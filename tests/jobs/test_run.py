"""The corners of a run: overtaken plans, empty inputs, cut files, odd ids, what is left behind."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.cli.verify import verify
from nightrank.errors import NightrankError
from nightrank.generations import planning
from nightrank.generations.results import open_lake
from nightrank.generations.stage_order import stops
from nightrank.storage.log import Log
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import digests, execute, opened, run, table

Config = Callable[..., str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return Collection(tmp_path_factory.mktemp("small"), documents=300, queries=20)


def test_a_run_that_was_overtaken_is_stale_once_and_planned_anew_by_the_same_command(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(small.config(tmp_path / "lake"))
    with opened(config) as slow:
        execute(slow, last="rank")
        for keep in (3, 2):  # Both planned after the slow run, the second after the first.
            run(config, f"results.keep={keep}")
        with pytest.raises(NightrankError) as caught:
            execute(slow)
    assert caught.value.exit_code == 5 and "same command again" in str(caught.value)
    again = run(config)
    assert again["generation"] == 3
    # What it had ranked before is still good.
    assert not {name for name in ("search", "rerank", "rank") if again["units"][name]}
    verify(config)


def test_published_work_asked_for_in_parts_is_not_published_twice(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(small.config(tmp_path / "lake"))
    run(config)
    for first, last in ((None, "evaluate"), ("rank", None), (None, "publish")):
        with opened(config) as job:
            assert execute(job, first, last)["generation"] == 1
    assert Log(open_lake(str(tmp_path / "lake"), "tiny"), "results").generations() == [1]


def test_a_run_may_stop_after_any_stage_and_go_on(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    steps = [
        {"name": name, "model": "toy:overlap", "depth": depth}
        for name, depth in (("fast", 15), ("strong", 5))
    ]
    run(write_config(small.config(tmp_path / "whole", rerank=steps)))
    config = write_config(small.config(tmp_path / "parts", rerank=steps))
    stages = stops()[: stops().index("publish")]
    for stage in stages:
        with opened(config) as job:
            assert execute(job, last=stage)["generation"] is None
    assert not Log(open_lake(str(tmp_path / "parts"), "tiny"), "results").generations()
    with opened(config) as job:
        assert execute(job, first="publish")["generation"] == 1
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")
    verify(config)


def test_one_index_serves_many_result_generations(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    config = write_config(small.config(tmp_path / "lake"))
    run(config)
    run(config, "rerank.depth=7")
    assert Log(open_lake(str(tmp_path / "lake"), "tiny"), "index").generations() == [1]
    run(config, "index.factory=IVF4,Flat")
    store = open_lake(str(tmp_path / "lake"), "tiny")
    assert Log(store, "index").generations() == [1, 2]
    assert [Log(store, "results").read(n).body["index_generation"] for n in (1, 2, 3)] == [1, 1, 2]
    verify(config, generation=1)


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat", "auto"])
def test_an_empty_corpus_keeps_the_types_of_its_columns(
    small: Collection, tmp_path: Path, write_config: Config, factory: str
) -> None:
    plain = small.config(
        tmp_path / "lake",
        corpus={
            "path": str(write_jsonl(tmp_path / "none.jsonl", [])),
            "allow_empty": True,
            "attributes": {"year": "int64"},
        },
        index={"factory": factory},
        results={"document_columns": ["title", "year"]},
    )
    config = write_config(plain)
    assert run(config)["queries"]["no_candidates"] == 20
    ranked = table(tmp_path / "lake")
    assert ranked.num_rows == 0 and ranked.schema.field("year").type == pa.int64()
    verify(config)


def test_without_queries_there_is_nothing_to_measure(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    none = {"path": str(write_jsonl(tmp_path / "none.jsonl", [])), "allow_empty": True}
    summary = run(write_config(small.config(tmp_path / "lake", queries=none)))
    assert summary["generation"] == 1 and "measures" not in summary
    assert table(tmp_path / "lake").num_rows == table(tmp_path / "lake", "queries").num_rows == 0


def test_judgements_of_other_queries_leave_the_results_published_and_say_so(
    small: Collection,
    tmp_path: Path,
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.tsv").write_text("query-id\tcorpus-id\tscore\nzz\td00001\t1\n")
    config = write_config(
        small.config(tmp_path / "lake", evaluate={"qrels": str(tmp_path / "other.tsv")})
    )
    assert guarded(lambda **_: app(["run", config])) == 0
    assert "generation 1 is published but not measured" in capsys.readouterr().err
    assert guarded(lambda **_: app(["evaluate", config])) == 4
    assert table(tmp_path / "lake").num_rows == 100


@pytest.mark.parametrize("factory", ["Flat", "IVF4,Flat"])
def test_an_index_shard_without_a_single_vector_is_searched_like_any_other(
    tmp_path: Path, write_config: Config, factory: str
) -> None:
    made = Collection(tmp_path / "in", documents=1100, queries=5)
    made.documents[-1] |= {"title": "", "text": "!!!"}  # The toy encoder sees no word in it.
    write_jsonl(tmp_path / "in" / "corpus.jsonl", made.documents)
    plain = made.config(
        tmp_path / "lake",
        index={"factory": factory, "shard_bytes": 1},
        layout={"document_shard_rows": 1099},
    )
    config = write_config(plain)
    counts = run(config)["documents"]
    assert (counts["indexed"], counts["rejected"]) == (1099, 1)
    (reject,) = table(tmp_path / "lake", "rejects").to_pylist()
    assert (reject["id"], reject["reason"]) == (made.documents[-1]["_id"], "zero_embedding")
    verify(config)


def test_rejects_are_numbered_by_file_however_the_files_are_cut(
    small: Collection, tmp_path: Path, write_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "in"
    data.mkdir()
    lines = [json.dumps(d) for d in small.documents[:200]]
    lines[50] = lines[180] = "{bad"
    lines[100:100] = ["", "   "]  # Not rows, but lines: numbers stay those of an editor.
    (data / "a.jsonl").write_text("\n".join(lines) + "\n\n")
    texts = [d["text"] for d in small.documents[200:]]
    texts[40] = ""
    ids = [d["_id"] for d in small.documents[200:]]
    ids[70] = ids[69]
    pq.write_table(pa.table({"_id": ids, "text": texts}), data / "b.parquet", row_group_size=9)
    real = planning.plan_splits
    found: dict[int, Any] = {}
    for size in (1 << 30, 2000, 300):
        monkeypatch.setattr(planning, "plan_splits", functools.partial(real, target_bytes=size))
        root = tmp_path / f"lake{size}"
        corpus = {"path": str(data), "reject_budget": 0.1}
        counts = run(write_config(small.config(root, corpus=corpus)))["documents"]
        assert counts == {"in": 300, "indexed": 296, "rejected": 3, "superseded": 1}
        rejects = table(root, "rejects").to_pylist()
        found[size] = (
            sorted((Path(r["file"]).name, r["row"], r["reason"]) for r in rejects),
            table(root),
        )
    assert found[300][0] == [
        ("a.jsonl", 50, "bad_json"),
        ("a.jsonl", 182, "bad_json"),
        ("b.parquet", 40, "empty_text"),
        ("b.parquet", 69, "duplicate"),
    ]
    assert found[2000] == found[300] == found[1 << 30]


def test_ids_are_data(small: Collection, tmp_path: Path, write_config: Config) -> None:
    def odd(id: str) -> str:
        return f"../{id}\n\0 '\"/\u00e9\U0001f600"

    write_jsonl(tmp_path / "c.jsonl", [{**d, "_id": odd(d["_id"])} for d in small.documents])
    write_jsonl(tmp_path / "q.jsonl", [{**q, "_id": odd(q["_id"])} for q in small.queries])
    run(write_config(small.config(tmp_path / "plain")))
    plain = small.config(
        tmp_path / "odd",
        corpus={"path": str(tmp_path / "c.jsonl")},
        queries={"path": str(tmp_path / "q.jsonl")},
        evaluate={"qrels": None},
    )
    config = write_config(plain)
    run(config)
    verify(config)
    expected = [
        (odd(row["query_id"]), odd(row["doc_id"]), row["rank"], row["score"])
        for row in table(tmp_path / "plain").to_pylist()
    ]
    names = ("query_id", "doc_id", "rank", "score")
    found = [tuple(row[n] for n in names) for row in table(tmp_path / "odd").to_pylist()]
    assert found == expected


def test_a_fused_list_depends_on_shards_no_more_than_a_plain_one(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    plain = small.config(tmp_path / "a", rerank={"first_stage_weight": 0.3, "depth": 11})
    run(write_config(plain))
    layout = {"document_shard_rows": 7, "query_shard_rows": 3}
    run(write_config({**plain, "root": str(tmp_path / "b"), "layout": layout}))
    assert table(tmp_path / "b").equals(table(tmp_path / "a"))


def test_another_name_or_root_holds_the_same_bytes(
    small: Collection, tmp_path: Path, write_config: Config
) -> None:
    for root in ("a", "b"):
        run(write_config(small.config(tmp_path / root)))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_a_tag_that_a_trec_run_cannot_hold_is_a_usage_error(
    small: Collection,
    tmp_path: Path,
    write_config: Config,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = write_config(small.config(tmp_path / "lake"))
    arguments = ["export", config, "--trec", str(tmp_path / "run.txt"), "--tag", "my run"]
    assert guarded(lambda **_: app(arguments)) == 2
    assert "--tag 'my run'" in capsys.readouterr().err
