"""The reference of all keys and the editors' schema say what the models accept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from nightrank.config.file import load_section
from nightrank.config.keys import annotation_at
from nightrank.config.reference import REFERENCES, Reference, write
from nightrank.config.schema import PipelineConfig
from nightrank.config.training import TrainConfig
from tests.support.config_keys import keys

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXPERIMENT, TRAINING = REFERENCES
SMALLEST: dict[str, Any] = {
    "name": "a",
    "root": "lake",
    "corpus": {"path": "c.jsonl"},
    "queries": {"path": "q.jsonl"},
}


TRAINING_SMALLEST: dict[str, Any] = {
    "output": "out",
    "steps": 1,
    "learning_rate": 0.1,
    "collections": [
        {"name": "a", "corpus": "c", "queries": "q", "qrels": ["j.tsv"], "weight": 1.0}
    ],
}
each = pytest.mark.parametrize("reference", REFERENCES, ids=lambda one: one.page)


def text_of(reference: Reference) -> str:
    return (DOCS / reference.page).read_text()


def validator(reference: Reference) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((DOCS / reference.schema).read_text()))


@pytest.mark.parametrize("name", [name for one in REFERENCES for name in (one.page, one.schema)])
def test_the_files_are_those_that_the_models_give(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    here = (DOCS / name).read_text()
    assert (tmp_path / name).read_text() == here, f"docs/{name} is out of date: make reference"


@each
def test_every_key_has_an_entry_with_a_description(reference: Reference) -> None:
    text = text_of(reference)
    entries = dict(re.findall(r"^### `(.*?)`\n\n(.*)\n\n\*Type:\*", text, re.MULTILINE))
    shared = re.findall(r"\[`(\w+)`\]\(#corpus(\w+)\)", text)
    assert all(key == anchor for key, anchor in shared)
    assert bool(shared) == (reference is EXPERIMENT)
    links = {f"queries.{key}": f"corpus.{key}" for key, _ in shared}
    for key, field in keys(reference.model):
        name = key.replace("pools.*", "pools.<name>").replace(".*", "")
        entry = entries[links.get(name, name)]
        assert entry == field.description and entry.endswith("."), key


@each
def test_every_link_of_the_page_has_its_heading(reference: Reference) -> None:
    text = text_of(reference)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w-]", "", heading.lower()) for heading in headings}
    assert set(re.findall(r"\(#(.*?)\)", text)) <= anchors


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
        assert not validator(EXPERIMENT).is_valid(plain)
    else:
        assert validator(EXPERIMENT).is_valid(plain)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"first_stage_weight": 0.5, "reported": [{"queries": "q", "qrels": "r"}]}, True),
        ({"collections": []}, False),
        ({"collections": [{"name": "a"}]}, False),
        ({"head": "pooling"}, False),
        ({"patience": -1}, False),
    ],
)
def test_the_schema_of_trainings_accepts_what_the_model_accepts(
    changes: dict[str, Any], accepted: bool
) -> None:
    plain = {**TRAINING_SMALLEST, **changes}
    assert validator(TRAINING).is_valid(plain) == accepted
    if accepted:
        TrainConfig.model_validate(plain)
    else:
        with pytest.raises(ValidationError):
            TrainConfig.model_validate(plain)


@each
def test_the_example_of_the_page_is_complete(reference: Reference, tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", text_of(reference), re.DOTALL)
    (tmp_path / "c.yaml").write_text(block)
    config = load_section(reference.model, str(tmp_path / "c.yaml"))
    assert config.model_dump(exclude_unset=True).keys() == reference.smallest.keys()
    assert block.startswith(f"# yaml-language-server: $schema={reference.schema}\n")


@each
def test_no_section_repeats_its_keys_in_prose(reference: Reference) -> None:
    inner = {_model_of(reference.model, key) for key, _ in keys(reference.model) if "." in key}
    sections = {reference.model, *inner}
    assert len(sections) > 2
    assert all(model.__doc__ and "Attributes:" not in model.__doc__ for model in sections)


def _model_of(model: type[BaseModel], key: str) -> type[BaseModel]:
    """The section that a key is in."""
    section = annotation_at(model, key.replace("*", "0").split(".")[:-1])
    assert isinstance(section, type) and issubclass(section, BaseModel)
    return section
