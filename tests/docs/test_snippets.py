"""Configs that the pages show are accepted, and their code is valid."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import duckdb
import pytest

from nightrank.config.file import load_section
from nightrank.config.schema import PipelineConfig
from nightrank.config.training import TrainConfig
from nightrank.config.yaml_text import parse
from tests.support.pages import blocks, page, pages

# What a page leaves out that shows some keys of a config.
REST = {"name": "x", "root": "lake", "corpus": {"path": "a.jsonl"}, "queries": {"path": "b.jsonl"}}
# The generated references have a test of their own.
GENERATED = ("docs/configuration.md", "docs/training-configuration.md")
PAGES = [name for name in pages() if name not in GENERATED]
CONFIGS = [(name, text) for name in PAGES for text in blocks("yaml", page(name))]


@pytest.mark.parametrize(("name", "text"), CONFIGS, ids=[name for name, _ in CONFIGS])
def test_configs_are_accepted(name: str, text: str, tmp_path: Path) -> None:
    plain, _ = parse(text, name)
    kind = TrainConfig if "collections" in plain else PipelineConfig
    if kind is PipelineConfig and "name" not in plain:
        plain = {**REST, **plain}
    file = tmp_path / "shown.yaml"
    file.write_text(json.dumps(plain))  # JSON is YAML.
    load_section(kind, str(file))


def test_python_and_sql_are_valid() -> None:
    python = [text for name in PAGES for text in blocks("python", page(name))]
    sql = [text for name in PAGES for text in blocks("sql", page(name))]
    assert len(python) > 8 and len(sql) > 8
    for text in python:
        ast.parse(text)
    for text in sql:
        assert duckdb.extract_statements(text)
