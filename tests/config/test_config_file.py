"""Reading a config: `~`, `--set`, and errors that name what was meant."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from nightrank.config.file import load_config, load_section
from nightrank.config.keys import annotation_at, is_text
from nightrank.config.schema import PipelineConfig
from nightrank.config.training import TrainConfig
from nightrank.errors import NightrankError
from tests.support.collection import Collection
from tests.support.config_keys import keys
from tests.support.lake import run


@pytest.fixture
def config(collection: Collection, tmp_path: Path, write_config: Callable[..., str]) -> str:
    return write_config(collection.config(tmp_path / "lake"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def value_of(config: PipelineConfig, key: str) -> Any:
    place: Any = config.model_dump()
    for part in key.split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
    return place


@pytest.mark.parametrize("text", ["a: b", "data #2", "*.jsonl", "2024", "true", "[x]", "{a: b}"])
@pytest.mark.parametrize(
    "key",
    [
        *("corpus.path", "queries.path", "evaluate.qrels", "encoder.model", "rerank.model"),
        *("encoder.query_prompt", "corpus.columns.text", "index.search_parameters"),
        *("cluster.pools.model.labels.zone", "cluster.address"),
    ],
)
def test_a_text_is_set_as_it_is_typed(config: str, key: str, text: str) -> None:
    loaded = load_config(config, [f"{key}={text}"])
    assert value_of(loaded, key.replace("rerank.", "rerank.0.")) == text


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("rerank.depth=10", "rerank.0.depth", 10),
        ("name=2024", "name", "2024"),
        ("encoder.query_prompt=query: ", "encoder.query_prompt", "query: "),
        ('encoder.query_prompt="query: "', "encoder.query_prompt", "query: "),
        ("encoder.query_prompt='it''s'", "encoder.query_prompt", "it's"),
        ("evaluate.qrels=null", "evaluate.qrels", None),
        ("evaluate.qrels=", "evaluate.qrels", None),
        ("index.search_parameters=", "index.search_parameters", ""),
        ("evaluate.measures=[R@3, nDCG@10]", "evaluate.measures", ["R@3", "nDCG@10"]),
        ("corpus.attributes={year: int64}", "corpus.attributes", {"year": "int64"}),
        ("corpus.attributes.year=int64", "corpus.attributes.year", "int64"),
        ("retrieve.bm25={weight: 0}", "retrieve.bm25.weight", 0.0),
        ("cluster.pools.model.workers=3", "cluster.pools.model.workers", 3),
        ("corpus.allow_empty=true", "corpus.allow_empty", True),
        ("rerank.first_stage_weight=auto", "rerank.0.first_stage_weight", "auto"),
        ("rerank.first_stage_weight=0.5", "rerank.0.first_stage_weight", 0.5),
        ("storage_options.endpoint_url=http://h:1", "storage_options.endpoint_url", "http://h:1"),
        ("budget.until=06:00", "budget.until", "06:00"),
    ],
)
def test_set_goes_by_what_the_key_takes(
    config: str, override: str, key: str, expected: Any
) -> None:
    assert value_of(load_config(config, [override]), key) == expected


def test_every_key_that_holds_a_text_takes_one_verbatim() -> None:
    texts = {key for key, field in keys() if is_text(field.annotation)}
    found = {key for key, _ in keys() if is_text(annotation_at(PipelineConfig, key.split(".")))}
    # `*` is the name of a pool; an item of a list needs its number.
    assert {key for key in texts if "*" not in key} <= found
    numbered = [key.replace("*", "0") for key in texts if "*" in key]
    assert numbered and all(is_text(annotation_at(PipelineConfig, k.split("."))) for k in numbered)
    assert {"name", "root", "corpus.path", "encoder.revision"} <= texts
    assert not {"rerank.*.depth", "corpus.format", "evaluate.measures"} & texts


def test_items_of_lists_are_set_by_their_number(
    collection: Collection, tmp_path: Path, write_config: Callable[..., str]
) -> None:
    steps = [{"model": "toy:overlap", "depth": 10}, {"model": "toy:overlap", "depth": 5}]
    config = write_config(collection.config(tmp_path / "lake", rerank=steps))
    loaded = load_config(config, ["rerank.1.depth=3", "rerank.0.model=builtin:reranker"])
    assert (loaded.rerank[1].depth, loaded.rerank[0].model) == (3, "builtin:reranker")
    for override in ("rerank.depth=3", "rerank.2.depth=3"):
        with pytest.raises(NightrankError, match="number below 2") as caught:
            load_config(config, [override])
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"corpus": {"pth": "x"}},
            "corpus.pth: unknown key; did you mean 'path'? known",
        ),
        ({"rerank": {"depht": 3}}, "rerank.0.depht: unknown key; did you mean 'depth'?"),
        ({"retreive": {"depth": 3}}, "retreive: unknown key; did you mean 'retrieve'?"),
        ({"qrels": "x"}, "qrels: unknown key; did you mean 'evaluate.qrels'?"),
        ({"retrieve": {"bm25": {"wieght": 0}}}, "retrieve.bm25.wieght: unknown key; did you mean"),
        (
            {"cluster": {"pools": {"model": {"wrkers": 1}}}},
            "unknown key; did you mean 'workers'",
        ),
        ({"cluster": {"executor": "seriel"}}, "found 'seriel'; did you mean 'serial'?"),
        ({"corpus": {"format": "json"}}, "did you mean 'jsonl'?"),
        ({"corpus": {"attributes": {"year": "int"}}}, "found 'int'; did you mean 'int64'"),
        ({"name": 2024}, "name: expected text, found 2024: put it in quotes"),
        ({"zzzzzz": 1}, "zzzzzz: unknown key; known here: name, root"),
    ],
)
def test_an_error_says_what_was_meant(
    collection: Collection, tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    plain = collection.config(tmp_path, **sections)
    path = tmp_path / "c.yaml"
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in plain.items()))
    with pytest.raises(NightrankError) as caught:
        load_config(str(path))
    assert words in caught.value.what
    assert caught.value.where == f"{path}, line {list(plain).index(next(iter(sections))) + 1}"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rerank.depht=3", "did you mean 'depth'?"),
        ("cluster.executor=seriel", "did you mean 'serial'?"),
        ("retreive.depth=3", "did you mean 'retrieve'?"),
        ("retrieve.depth=many", "expected a whole number"),
        ("rerank.unit_tokens=x", "expected 'auto' or a whole number, found 'x'"),
        ("cluster.pools.own.stages=[rerankk]", "did you mean 'rerank' or 'rank'?"),
        ("corpus.columns.txt=body", "unknown: 'txt'; did you mean 'text'? known: ['id', "),
        ("results.document_columns=[titel]", "unknown: 'titel'; did you mean 'title'?"),
        ("rerank.depth=5000", "rerank.depth = 5000 exceeds retrieve.depth = 20"),
    ],
)
def test_an_error_in_an_override_names_the_option(config: str, override: str, words: str) -> None:
    with pytest.raises(NightrankError, match=r"correct the option") as caught:
        load_config(config, [override])
    assert words in caught.value.what
    assert caught.value.where.startswith("--set ") and caught.value.exit_code == 2


def test_keys_of_a_training_are_suggested_too(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("output: o\ncollections:\n  - {name: a, corpsu: c, queries: q, weight: 1.0}\n")
    with pytest.raises(NightrankError, match="did you mean") as caught:
        load_section(TrainConfig, str(path))
    assert caught.value.where == f"{path}, line 3"


def test_home_is_home_wherever_a_path_is_taken(
    home: Path, collection: Collection, write_config: Callable[..., str], capsys: Any
) -> None:
    for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        (home / name).write_bytes((collection.folder / name).read_bytes())
    plain = collection.config("~/lake", corpus={"path": "~/corpus.jsonl"})
    plain |= {"queries": {"path": "~/queries.jsonl"}, "evaluate": {"qrels": "~/qrels.tsv"}}
    config = write_config(plain)
    loaded = load_config(config)
    assert loaded.root == f"{home}/lake" and loaded.evaluate.qrels == f"{home}/qrels.tsv"
    run(config)
    (home / "c.yaml").write_text(Path(config).read_text())
    for arguments in (
        ["results", "~/c.yaml"],
        ["export", config, "--trec", "~/run.txt"],
        ["export", config, "--hive", "~/hive"],
        ["init", "~/new.yaml", "--corpus", "~/corpus.jsonl", "--root", "~/other"],
    ):
        assert guarded(lambda arguments=arguments, **_: app(arguments)) == 0, arguments
    assert {"lake", "run.txt", "hive", "new.yaml"} <= set(os.listdir(home))
    assert "~" not in os.listdir()
    written = load_config("~/new.yaml")
    assert (written.root, written.corpus.path) == (f"{home}/other", f"{home}/corpus.jsonl")
    assert "1 file(s), jsonl" in capsys.readouterr().out


def test_homes_of_users_are_known_and_others_refused(config: str, home: Path) -> None:
    user = pwd.getpwuid(os.getuid())
    loaded = load_config(config, [f"root=~{user.pw_name}/lake"])
    assert loaded.root == os.path.join(user.pw_dir, "lake")
    for key in ("root", "corpus.path", "queries.path", "evaluate.qrels", "encoder.model"):
        with pytest.raises(NightrankError, match=r"no home folder is known.*write \./~nobody-here"):
            load_config(config, [f"{key}=~nobody-here/x"])
    assert load_config(config, ["corpus.path=./~nobody-here"]).corpus.path == "./~nobody-here"
    for arguments in (["export", config, "--hive=~nobody-here"], ["run", "~nobody-here.yaml"]):
        assert guarded(lambda arguments=arguments, **_: app(arguments)) == 2


def test_the_name_of_a_model_stays_as_it_is_written(config: str, home: Path) -> None:
    # The lake keeps models by name: it must not depend on whose machine planned.
    assert load_config(config, ["encoder.model=~/models/x"]).encoder.model == "~/models/x"
