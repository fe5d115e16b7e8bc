"""Sixty malformed inputs as a user would type them: exact exit code, exact error, one useful line.

Most run the program's `main` in this process; a handful start it as users do. No line holds a
traceback or a secret, and every line says what was found, where, and what to do.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nightrank.cli.app import main
from tests.support.input_files import packed
from tests.support.program import nightrank

SECRET = "hunter2-canary"
GOOD = b'{"_id": "g", "text": "river bank loan"}\n'
TWO = GOOD + b'{"_id": "h", "text": "court appeal"}\n'


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def bomb() -> bytes:
    """20 kB that decode to over a gigabyte: one text, repeated by dictionary."""
    sink = io.BytesIO()
    rows = 12_000
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 100_000])
    ids = pa.array([str(i) for i in range(rows)])
    pq.write_table(pa.table({"_id": ids, "text": text}), sink, compression="zstd")
    return sink.getvalue()


WHOLE = parquet(_id=["a", "b"], text=["river", "bank"])
# Name, bytes, exit code, code, what the line must hold. Files lie at `bad/<name>`, the corpus.
FILES: list[tuple[str, bytes, int, str, str]] = [
    ("empty.jsonl", b"", 4, "E_EMPTY", "not a single usable row"),
    ("blank.jsonl", b"\n\n  \n", 4, "E_EMPTY", "0 rows read"),
    ("header.csv", b"_id,text\n", 4, "E_EMPTY", "0 rows read"),
    ("nothing.csv", b"", 4, "E_SCHEMA", "no column"),
    ("mark.csv", b"\xef\xbb\xbf", 4, "E_SCHEMA", "no column"),
    ("zero.parquet", b"", 4, "E_SCHEMA", "unreadable_file"),
    ("text.parquet", b"_id,text\na,b\n", 4, "E_SCHEMA", "unreadable_file"),
    ("cut.parquet", WHOLE[:-20], 4, "E_SCHEMA", "unreadable_file"),
    ("half.parquet", WHOLE[: len(WHOLE) // 2], 4, "E_SCHEMA", "unreadable_file"),
    ("magic.parquet", b"PAR1" * 4, 4, "E_SCHEMA", "unreadable_file"),
    ("locked.parquet", b"PARE" + WHOLE[4:-4] + b"PARE", 4, "E_SCHEMA", "unreadable_file"),
    ("bomb.parquet", bomb(), 4, "E_SCHEMA", "suspicious_expansion"),
    ("norows.parquet", parquet(_id=pa.array([], pa.string()), text=pa.array([], pa.string())),
     4, "E_EMPTY", "0 rows read"),
    ("noid.parquet", parquet(name=["a"], text=["b"]), 4, "E_SCHEMA", "found: name, text"),
    ("notext.parquet", parquet(_id=["a"], body=["b"]), 4, "E_SCHEMA", "corpus.columns"),
    ("binary.parquet", parquet(_id=["a"], text=[b"b"]), 4, "E_SCHEMA", "binary, expected string"),
    ("lists.parquet", parquet(_id=["a"], text=[["b"]]), 4, "E_SCHEMA", "expected string"),
    ("floats.parquet", parquet(_id=[1.5], text=["b"]), 4, "E_SCHEMA", "string or integer"),
    ("nulls.parquet", parquet(_id=pa.nulls(2), text=["a", "b"]), 4, "E_REJECT_BUDGET", "2 null_id"),
    ("cut.jsonl.gz", gzip.compress(TWO)[:-12], 4, "E_SCHEMA", "unreadable_file"),
    ("plain.jsonl.gz", TWO, 4, "E_SCHEMA", "unreadable_file"),
    ("cut.jsonl.zst", packed(TWO, "zst")[:-8], 4, "E_SCHEMA", "unreadable_file"),
    ("gzip.jsonl", gzip.compress(TWO), 4, "E_REJECT_BUDGET", "allowed are 1.00%"),
    ("archive.zip", b"PK\x03\x04", 4, "E_SCHEMA", "rename it to one of"),
    ("array.json", b'[{"_id": "a", "text": "b"}]', 4, "E_REJECT_BUDGET", "1 bad_json"),
    ("torn.jsonl", TWO + b'{"_id": "x", "te', 4, "E_REJECT_BUDGET", "row 2"),
    ("utf16.jsonl", TWO.decode().encode("utf-16"), 4, "E_REJECT_BUDGET", "bad_json"),
    ("latin.jsonl", GOOD + b'{"_id": "x", "text": "\xe9"}', 4, "E_REJECT_BUDGET", "1 invalid"),
    ("lone.jsonl", GOOD + rb'{"_id": "x", "text": "\ud800"}', 4, "E_REJECT_BUDGET", "1 invalid"),
    ("deep.jsonl", GOOD + b"[" * 100_000, 4, "E_REJECT_BUDGET", "1 bad_json"),
    ("nullid.jsonl", GOOD + b'{"_id": null, "text": "b"}', 4, "E_REJECT_BUDGET", "1 null_id"),
    ("boolid.jsonl", GOOD + b'{"_id": true, "text": "b"}', 4, "E_REJECT_BUDGET", "doc_id is bool"),
    ("longid.jsonl", GOOD + b'{"_id": "%s", "text": "b"}' % (b"x" * 600), 4, "E_REJECT_BUDGET",
     "expected at most 512 bytes, found 600"),
    ("notext.jsonl", GOOD + b'{"_id": "x"}', 4, "E_REJECT_BUDGET", "1 null_text"),
    ("spaces.jsonl", GOOD + b'{"_id": "x", "text": " \\n "}', 4, "E_REJECT_BUDGET", "1 empty_text"),
    ("large.jsonl", GOOD + b'{"_id": "x", "text": "%s"}' % (b"y" * 1_100_000), 4,
     "E_REJECT_BUDGET", "expected at most 1048576 bytes, found 1100000"),
    ("ragged.csv", b"_id,text\na,river\nb\n", 4, "E_REJECT_BUDGET", "expected 2 fields, found 1"),
    ("twice.csv", b"_id,text,text\na,b,c\n", 4, "E_SCHEMA", "names 'text' more than once"),
    ("fields.tsv", b"_id\ttext\na\tb\tc\n", 4, "E_REJECT_BUDGET", "expected 2 fields, found 3"),
    ("nohead.tsv", b"0\triver bank\n1\tyyyy\n", 4, "E_SCHEMA", "set corpus.header, e.g. [id"),
    ("semicolons.csv", b"_id;text\na;river\n", 4, "E_SCHEMA", "found 1 field without any of"),
]  # fmt: skip
BASE = "name: tiny\nroot: lake\ncorpus: {path: c.jsonl}\nqueries: {path: q.jsonl}\n"
BASE += "encoder: {model: toy:bag-of-words}\ncluster: {executor: serial}\n"
# Text of a config, exit code, code, what the line must hold.
CONFIGS: dict[str, tuple[str, int, str, str]] = {
    "nothing": ("", 2, "E_CONFIG", "expected a mapping"),
    "a list": ("- a\n- b\n", 2, "E_CONFIG", "expected a mapping"),
    "no root": ("name: x\n", 2, "E_CONFIG", "root: this key is required"),
    "a tab": (BASE + "retrieve:\n\tdepth: 3\n", 2, "E_CONFIG", "line 8"),
    "a key twice": (BASE + "name: other\n", 2, "E_CONFIG", "'name' appears twice"),
    "an alias": (BASE + "index: &a {}\nretrieve: *a\n", 2, "E_CONFIG", "aliases"),
    "a tag": (BASE + "index: !!python/name:os.system\n", 2, "E_CONFIG", "line 7"),
    "an environment variable": (BASE.replace("lake", "${HOME}"), 2, "E_CONFIG", "not expanded"),
    "too deep": (BASE + "index: " + "[" * 30, 2, "E_CONFIG", "nested deeper than 20"),
    "too large": (BASE + "#" * (1 << 20), 2, "E_CONFIG", "at most 1048576 bytes"),
    "no number": (BASE + "retrieve: {depth: ten}\n", 2, "E_CONFIG", "expected a whole number"),
    "no boolean": (BASE.replace("q.jsonl", "q.jsonl, only_judged: yes"), 2, "E_CONFIG", "true or"),
    "an octal": (BASE + "retrieve: {depth: 012}\n", 2, "E_CONFIG", "found '012'"),
    "an infinity": (BASE + "retrieve: {bm25: {k1: 1e999}}\n", 2, "E_CONFIG", "retrieve.bm25.k1"),
    "another stemmer": (BASE + "retrieve: {bm25: {language: elvish}}\n", 2, "E_CONFIG", "finnish"),
    "a misspelt key": (BASE + "retrieve: {dept: 3}\n", 2, "E_CONFIG", "known here: depth, bm25"),
    "a bad name": (BASE.replace("tiny", "../up"), 2, "E_CONFIG", "name"),
    "a password in the root": (
        BASE.replace("lake", f"s3://me:{SECRET}@bucket/lake"), 2, "E_CONFIG", "root: secrets"
    ),
    "a password in an endpoint": (
        BASE + f"storage_options: {{client_kwargs: {{endpoint_url: 'http://me:{SECRET}@s'}}}}\n",
        2, "E_CONFIG", "storage_options.client_kwargs.endpoint_url",
    ),
    "a secret as options": (BASE + f"storage_options: {SECRET}\n", 2, "E_CONFIG", "a mapping"),
    "a secret in an input": (
        BASE.replace("c.jsonl", f"s3://me:{SECRET}@b/c.jsonl"), 2, "E_CONFIG", "credentials"
    ),
    "NUL in a path": (BASE.replace("c.jsonl", '"c\\0.jsonl"'), 2, "E_CONFIG", "NUL characters"),
    "a path too long": (BASE.replace("c.jsonl", "c" * 5000), 4, "E_EMPTY", "File name too long"),
    "a file as a folder": (BASE.replace("c.jsonl", "c.jsonl/x"), 4, "E_EMPTY", "correct the path"),
}  # fmt: skip


def typed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and stderr of the program, run in this process."""
    capsys.readouterr()
    before = sys.argv
    sys.argv = ["nightrank", *arguments]
    try:
        with pytest.raises(SystemExit) as end:
            main()
    finally:
        sys.argv = before
    return int(str(end.value.code)), capsys.readouterr().err


def judge(found: tuple[int, str], code: int, name: str, words: str) -> None:
    ended, said = found
    assert ended == code and said.startswith(f"nightrank: error[{name}]: "), said
    assert said.count("\n") == 1 and len(said) < 900, said
    assert words in said and " - " in said, said
    assert "Traceback" not in said and SECRET not in said


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.jsonl").write_bytes(TWO)
    (tmp_path / "q.jsonl").write_bytes(b'{"_id": "q", "text": "river bank"}\n')
    return tmp_path


@pytest.mark.parametrize("case", FILES, ids=[case[0] for case in FILES])
def test_malformed_files(
    here: Path, capsys: pytest.CaptureFixture[str], case: tuple[str, bytes, int, str, str]
) -> None:
    name, data, code, error, words = case
    (here / "bad").mkdir()
    (here / "bad" / name).write_bytes(data)
    (here / "config.yaml").write_text(BASE.replace("c.jsonl", f"bad/{name}"))
    found = typed(capsys, "run", "config.yaml", "--json")
    judge(found, code, error, words)
    assert f"bad/{name}" in found[1], "the file is not named"
    assert "river" not in found[1] and "yyyy" not in found[1], "texts stay out of errors"


@pytest.mark.parametrize("case", CONFIGS)
def test_malformed_configs(here: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    text, code, error, words = CONFIGS[case]
    (here / "config.yaml").write_text(text)
    judge(typed(capsys, "run", "config.yaml", "--json"), code, error, words)
    assert not (here / "lake" / "tiny" / "results").exists(), "something was published"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "config.yaml", "--set", "retrieve.depth=0"], 2, "retrieve.depth"),
        (["verify", "config.yaml"], 4, "nothing published yet"),
        (["results", "config.yaml", "--generation", "x"], 2, "2026-01-31"),
        (["rollback", "config.yaml", "--to", "9"], 4, "does not exist"),
        (["gc", "config.yaml", "--min-age-days", "-1"], 2, "error[E_USAGE]"),
    ],
)
def test_the_program_as_users_start_it(
    here: Path, arguments: list[str], code: int, words: str
) -> None:
    (here / "config.yaml").write_text(BASE)
    done = nightrank(*arguments, cwd=here)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
