"""Files of an input that are not read: every verb counts them, and a refusal names one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded
from tests.support.collection import Collection

Write = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two documents, one of them behind a link, and files that are not read."""
    data = tmp_path / "in"
    data.mkdir()
    (tmp_path / "blob").write_text('{"_id": "a", "text": "river bank"}\n')
    (data / "a.jsonl").symlink_to("../blob")
    (data / "b.jsonl").write_text('{"_id": "b", "text": "river"}\n')
    for name in ("_SUCCESS", "README.md", "b.jsonl.bz2"):
        (data / name).write_text("x")
    return data


def verb(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    capsys.readouterr()
    code = guarded(lambda **_: app([*arguments]))
    return code, *capsys.readouterr()


def test_every_verb_counts_what_is_left_out(
    collection: Collection, folder: Path, tmp_path: Path, write_config: Write, capsys
) -> None:
    plain = collection.config(tmp_path / "lake", corpus={"path": str(folder)})
    plain.pop("evaluate")
    for command in ("run", "plan", "nightly", "reindex"):
        code, out, err = verb(command, write_config(plain), capsys=capsys)
        assert code == 4 and out == "" and err.count("\n") == 1
        assert "b.jsonl.bz2" in err and "ignore: ['*.bz2']" in err
    code, out, _ = verb("doctor", write_config(plain), capsys=capsys)
    (line,) = [line for line in out.splitlines() if line.split()[1] == "corpus"]
    assert code == 3 and line.startswith("fail") and "b.jsonl.bz2" in line

    plain["corpus"]["ignore"] = ["*.bz2"]
    config = write_config(plain)
    counts = {"ignored": 1, "hidden": 1, "sidecar": 1}
    code, out, _ = verb("doctor", config, capsys=capsys)
    (line,) = [line for line in out.splitlines() if line.split()[1] == "corpus"]
    assert code == 0 and line.startswith("ok") and "2 files" in line
    assert "3 left out: 1 named by `ignore`, e.g." in line and "b.jsonl.bz2" in line
    code, out, _ = verb("plan", config, capsys=capsys)
    assert code == 0 and "corpus: 3 left out" in out
    code, out, _ = verb("plan", config, "--json", capsys=capsys)
    assert json.loads(out)["files_left_out"] == {"corpus": counts, "queries": {}}
    code, out, err = verb("run", config, capsys=capsys)
    assert code == 0 and "corpus: 3 left out" in err
    assert "documents: 2 in = 2 indexed" in out
    assert "corpus files left out: 1 hidden, 1 ignored, 1 sidecar" in out
    for command in ("run", "nightly", "reindex"):
        code, out, _ = verb(command, config, "--json", capsys=capsys)
        assert code == 0 and json.loads(out)["files_left_out"]["corpus"] == counts


def test_a_path_that_is_no_utf8_is_refused_in_one_line(
    collection: Collection, folder: Path, tmp_path: Path, write_config: Write, capsys, monkeypatch
) -> None:
    (folder / "b.jsonl.bz2").unlink()
    latin1 = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    shutil.copytree(folder, latin1)
    config = write_config(collection.config("lake", corpus={"path": str(folder)}))
    glob = str(tmp_path / "caf*" / "*.jsonl")
    for key, value, expected in (
        ("corpus.path", latin1, 2),
        ("corpus.path", f"{latin1}/b.jsonl", 2),
        ("evaluate.qrels", f"{latin1}/qrels.tsv", 2),
        ("root", latin1, 2),
        ("corpus.path", f"'{glob}'", 4),
    ):
        code, _, err = verb("run", config, "--set", f"{key}={value}", capsys=capsys)
        assert code == expected and err.count("\n") == 1 and "caf\\xe9" in err
    monkeypatch.chdir(latin1)  # The lake's path is relative.
    for command in ("run", "status", "doctor"):
        code, _, err = verb(command, config, capsys=capsys)
        assert code == 2 and err.count("\n") == 1 and "caf\\xe9" in err
