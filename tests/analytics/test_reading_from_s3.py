"""docs/reading-from-s3.md against an S3 API: its commands and snippets, as they are written."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import duckdb
import pytest

from nightrank import read_results
from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.collection import Collection
from tests.support.lake import run
from tests.support.pages import REPOSITORY, blocks

TEXT = (REPOSITORY / "docs" / "reading-from-s3.md").read_text()


@pytest.fixture
def names(
    s3_url: str, collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What all snippets leave behind, run where the credentials are in the environment."""
    root = f"{s3_url}/reading"
    (tmp_path / "my.yaml").write_text(json.dumps(collection.config(root)))
    run(str(tmp_path / "my.yaml"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # Of a store without TLS, which this one is.
    (line,) = (line for block in blocks("sh", TEXT) for line in block.splitlines())
    words, _, target = line.partition(" > ")
    with open(target, "w") as file, contextlib.redirect_stdout(file):
        assert guarded(lambda **_: app(shlex.split(words)[1:])) == 0
    found: dict[str, Any] = {"root": root}
    for snippet in blocks("python", TEXT):
        exec(snippet, found)
    return found


def test_polars_and_duckdb_read_the_whole_with_the_readers_own_credentials(
    names: dict[str, Any],
) -> None:
    try:
        assert all(file.startswith("s3://") for file in names["files"])
        rows = read_results(names["root"], "tiny").to_table()
        wanted = sorted(zip(rows["query_id"].to_pylist(), rows["rank"].to_pylist(), strict=True))
        assert len(wanted) > 100
        polars = names["by_polars"].select("query_id", "rank").collect().rows()
        by_duckdb = names["by_duckdb"].select("query_id, rank").fetchall()
        assert sorted(polars) == sorted(by_duckdb) == wanted
    finally:
        duckdb.unregister_filesystem("s3")


def test_the_secret_is_sql_that_duckdb_parses_and_of_the_policys_bucket() -> None:
    (text,) = blocks("sql", TEXT)
    statements = duckdb.extract_statements(text)
    assert [str(s.type).rpartition(".")[2] for s in statements[:2]] == ["LOAD", "LOAD"]
    assert len(statements) == 3
    (scope,) = re.findall(r"SCOPE '(s3://[^']+)'", text)
    reader = json.loads((REPOSITORY / "infra/iam/reader.json").read_text())["Statement"]
    assert scope.replace("s3://", "arn:aws:s3:::") in [s["Resource"] for s in reader]


def test_the_profile_is_one_that_aws_tools_read() -> None:
    (text,) = blocks("ini", TEXT)
    parser = ConfigParser()
    parser.read_string(text)
    profile = parser["profile nightrank-reader"]
    assert profile["role_arn"].endswith(":role/nightrank-reader")
    assert f"AWS_PROFILE={parser.sections()[0].split()[1]}" in TEXT
