"""The reference of all keys and the editors' schema say what the models accept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from nightrank.config.keys import annotation_at
from nightrank.config.reference import PAGE, SCHEMA, write
from nightrank.config.schema import PipelineConfig
from tests.support.config_keys import keys

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / PAGE).read_text()
VALIDATOR = jsonschema.Draft202012Validator(json.loads((DOCS / SCHEMA).read_text()))
SMALLEST: dict[str, Any] = {
    "name": "a",
    "root": "lake",
    "corpus": {"path": "c.jsonl"},
    "queries": {"path": "q.jsonl"},
}


@pytest.mark.parametrize("name", [PAGE, SCHEMA])
def test_the_files_are_those_that_the_models_give(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    here = (DOCS / name).read_text()
    assert (tmp_path / name).read_text() == here, f"docs/{name} is out of date: make reference"


def test_every_key_has_an_entry_with_a_description() -> None:
    entries = dict(re.findall(r"^### `(.*?)`\n\n(.*)\n\n\*Type:\*", TEXT, re.MULTILINE))
    shared = re.findall(r"\[`(\w+)`\]\(#corpus(\w+)\)", TEXT)
    assert shared and all(key == anchor for key, anchor in shared)
    links = {f"queries.{key}": f"corpus.{key}" for key, _ in shared}
    for key, field in keys():
        name = key.replace("pools.*", "pools.<name>").replace(".*", "")
        text = entries[links.get(name, name)]
        assert text == field.description and text[0].isupper() | (text[0] in "`w"), key
        assert text.endswith((".", "`.")), key


def test_every_link_of_the_page_has_its_heading() -> None:
    headings = re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w-]", "", heading.lower()) for heading in headings}
    assert set(re.findall(r"\(#(.*?)\)", TEXT)) <= anchors


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"rerank": {"depth": 20, "first_stage_weight": "auto"}},
        {"rerank": [{"name": "fast"}, {"depth": 20, "first_stage_weight": 0.5}]},
        {"rerank": []},
        {"cluster": {"pools": {"model": {"workers": 2, "gpus": 0.5}}}},
        {"storage_options": {"endpoint_url": "http://host:9000", "config": {"retries": 1}}},
        {"encoder": {"revision": None, "dimension": 256}, "budget": {"until": "06:00"}},
        {"corpus": {"path": "c", "attributes": {"year": "int64"}, "feed": True}},
        # Not accepted:
        {"retreive": {"depth": 3}},
        {"retrieve": {"bm25": {"wieght": 0.1}}},
        {"rerank": {"depht": 3}},
        {"rerank": [{"depth": 0}]},
        {"rerank": [{"name": f"n{i}"} for i in range(9)]},
        {"rerank": {"first_stage_weight": "automatic"}},
        {"rerank": None},
        {"name": "Not A Name"},
        {"name": 2024},
        {"root": ""},
        {"retrieve": {"bm25": {"weight": 1.0}}},
        {"corpus": {"format": "jsonl"}},
        {"corpus": {"path": "c", "attributes": {"year": "int"}}},
        {"cluster": {"pools": {"Not A Pool": {"stages": ["rerank"]}}}},
        {"cluster": {"pools": {"own": {"stages": ["rerankk"]}}}},
        {"cluster": {"executor": "seriel"}},
        {"budget": {"until": "24:00"}},
        {"budget": {"rerank_first": [0]}},
        {"evaluate": {"measures": []}},
    ],
    ids=lambda sections: json.dumps(sections)[:60],
)
def test_the_schema_accepts_what_the_models_accept(sections: dict[str, Any]) -> None:
    plain = {**SMALLEST, **sections}
    try:
        PipelineConfig.model_validate(plain)
    except ValidationError:
        assert not VALIDATOR.is_valid(plain)
    else:
        assert VALIDATOR.is_valid(plain)


def test_the_example_of_the_page_is_complete(tmp_path: Path) -> None:
    from nightrank.config.file import load_config

    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "c.yaml").write_text(block)
    config = load_config(str(tmp_path / "c.yaml"))
    assert config.model_dump(exclude_unset=True).keys() == SMALLEST.keys()
    assert block.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")


def test_no_section_repeats_its_keys_in_prose() -> None:
    sections = {PipelineConfig, *(_models(key) for key, _ in keys() if "." in key)}
    assert len(sections) > 10
    assert all(model.__doc__ and "Attributes:" not in model.__doc__ for model in sections)


def _models(key: str) -> type[BaseModel]:
    """The section that a key is in."""
    section = annotation_at(PipelineConfig, key.replace("*", "0").split(".")[:-1])
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return section
