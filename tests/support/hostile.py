"""Input and configs that nobody should write, and runs of them as a user sees them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from nightrank.cli.terminal import guarded
from nightrank.errors import EXIT_CODES
from nightrank.flow.run import Run
from nightrank.generations.results import generation_of
from nightrank.generations.verification import verify_generation
from nightrank.storage.dataset import Manifest
from tests.support.lake import execute, opened

# The table of README without a bug (70), and 0.
EXPECTED_CODES = {0, *EXIT_CODES.values()} - {EXIT_CODES["E_BUG"]}
STRANGE = [
    "",
    " ",
    "\n",
    "\0",
    "../../etc/passwd",
    "a/b",
    "-",
    "null",
    "é" * 300,
    "\ufeff",
    "\u202e",
]
STRANGE += ["x" * 513, "1e999", "'; DROP TABLE", "${HOME}", "!!python/name:os.system", "\x1b[31m"]
TEXTS = st.one_of(
    st.sampled_from(["river bank loan", "court appeal", *STRANGE]), st.text(max_size=20)
)
IDS = st.one_of(st.sampled_from(["a", "b", "c", *STRANGE]), st.text(max_size=8), st.integers(0, 9))
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(), max_size=12)
    | st.sampled_from(STRANGE),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
ATTRIBUTES = ["string", "int64", "float64", "bool", "timestamp", "date32"]


@dataclass
class Made:
    """One file: its bytes, its suffix, and the rows in it where they can be told from outside."""

    data: bytes
    suffix: str
    rows: int | None = None


def packed(data: bytes, how: str) -> bytes:
    """Compressed as a suffix says."""
    if how == ".gz":
        return gzip.compress(data, 1)
    return zstandard.compress(data, 1) if how == ".zst" else data


@st.composite
def jsonl(draw: st.DrawFn, columns: list[str]) -> Made:
    """Lines: mostly objects, with fields of any type, now and then no JSON at all."""
    usual = {"_id": IDS, "text": TEXTS}
    junk = [b"{", b"[1]", b"null", b"", b"  ", b"\xff\xfe{}", b"[" * 2000, b'{"_id":"a","_id":1}']
    junk += [b'{"text": "\\ud800", "_id": "s"}', b'{"_id": 1e999}', b"NaN", b'{"_id":"z"}}', b"\0"]
    lines = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.integers(0, 3)) == 0:
            lines.append(draw(st.sampled_from(junk) | st.binary(max_size=12)))
            continue
        row = {}
        for name in columns:
            kind = draw(st.integers(0, 9))
            if kind:  # A field is missing now and then.
                row[name] = draw(JSON_VALUES if kind < 3 else usual.get(name, JSON_VALUES))
        lines.append(json.dumps(row).encode())
    end = draw(st.sampled_from([b"\n", b"\r\n"]))
    data = draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + end.join(lines)
    data += draw(st.sampled_from([b"", end]))
    counted = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    rows = sum(1 for line in counted if line and not line.isspace())
    how = draw(st.sampled_from(["", "", ".gz", ".zst"]))
    return Made(packed(data, how), f".jsonl{how}", rows)


@st.composite
def delimited(draw: st.DrawFn, columns: list[str]) -> Made:
    """CSV and TSV with quotes, line feeds and bytes anywhere."""
    suffix = draw(st.sampled_from([".csv", ".tsv"]))
    between = b"," if suffix == ".csv" else b"\t"
    cell = st.one_of(
        st.sampled_from(
            [b"a", b"1", b"river bank", b"", b'"x,y"', b'"a\nb"', b'"', b"\xff", b"\0"]
        ),
        st.binary(max_size=6),
    )
    lines = [between.join(name.encode() for name in columns)]
    for _ in range(draw(st.integers(0, 6))):
        width = len(columns) + draw(st.sampled_from([0, 0, 0, 0, -1, 1]))
        lines.append(between.join(draw(cell) for _ in range(width)))
    data = b"\n".join(lines) + draw(st.sampled_from([b"", b"\n"]))
    how = draw(st.sampled_from(["", "", ".gz", ".zst"]))
    return Made(packed(data, how), suffix + how)


def _invalid_utf8(rows: int) -> pa.Array:
    raw = pa.array([b"ok", b"\xff\xfe", b"\xc3"] * rows, pa.binary()).slice(0, rows)
    return pa.Array.from_buffers(pa.string(), rows, raw.buffers(), offset=raw.offset)


@st.composite
def column(draw: st.DrawFn, name: str, rows: int) -> pa.Array:
    """A Parquet column: what belongs there, or what does not."""
    values = draw(st.lists(TEXTS | st.none(), min_size=rows, max_size=rows))
    texts = pa.array(values, pa.string())
    kind = draw(st.integers(0, 17))
    if kind < 7:
        return texts
    other: list[Any] = [
        texts.cast(pa.large_string()),
        texts.dictionary_encode(),
        texts.cast(pa.binary()),
        pa.array([[v] for v in values], pa.list_(pa.string())),
        pa.array([{"a": v} for v in values], pa.struct([("a", pa.string())])),
        pa.array(list(range(rows)), pa.int64()),
        pa.array(list(range(rows)), pa.uint8()),
        pa.array([0.5] * rows, pa.float32()),
        pa.nulls(rows),
        pa.array([None] * rows, pa.timestamp("ns")),
        _invalid_utf8(rows),
    ]
    return other[kind - 7]


@st.composite
def parquet(draw: st.DrawFn, columns: list[str]) -> Made:
    """Parquet with columns of any type, some of them twice, in row groups of any size."""
    rows = draw(st.integers(0, 6))
    names = [name for name in columns if draw(st.integers(0, 19))]
    names += draw(st.lists(st.sampled_from(["_id", "more", ""]), max_size=1))
    table = pa.table([draw(column(name, rows)) for name in names], names=names)
    sink = io.BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=draw(st.integers(1, 7)),
        compression=draw(st.sampled_from(["snappy", "zstd", "none", "gzip"])),
        write_page_checksum=draw(st.booleans()),
        use_dictionary=draw(st.booleans()),
    )
    return Made(sink.getvalue(), ".parquet", rows if names else None)


def files(one: st.SearchStrategy[Made], columns: list[str]) -> st.SearchStrategy[list[Made]]:
    """A file, as a rule alone, now and then beside one of another format."""
    other = st.one_of(jsonl(columns), delimited(columns), parquet(columns))
    return st.tuples(one, st.lists(other, max_size=1)).map(lambda made: [made[0], *made[1]])


@st.composite
def damaged(draw: st.DrawFn, columns: list[str]) -> Made:
    """A file cut off, with bytes changed, put in or doubled, or called what it is not."""
    made = draw(st.one_of(jsonl(columns), delimited(columns), parquet(columns)))
    data = bytearray(made.data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        what = draw(st.integers(0, 4))
        if what == 0:
            del data[at:]
        elif what == 1 and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == 2:
            data[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif what == 3:
            data += data[at:]
    suffix = made.suffix
    if draw(st.integers(0, 4)) == 0:
        suffix = draw(st.sampled_from([".jsonl", ".csv", ".parquet", ".jsonl.gz", ".tsv.zst"]))
    return Made(bytes(data), suffix)


@st.composite
def policies(draw: st.DrawFn, kind: str, strict: bool = True) -> dict[str, Any]:
    """What a config may say of a source; without `strict` bad rows go to the rejects."""
    made: dict[str, Any] = {"max_text_bytes": 200, "reject_budget": 1.0, "allow_empty": True}
    made["attributes"] = draw(
        st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(ATTRIBUTES), max_size=2)
    )
    if kind == "queries":
        made["on_dup_query"] = "reject"
    if not strict:
        made["on_bad_file"] = draw(st.sampled_from(["reject", "reject", "error"]))
        return made
    made["on_bad_file"] = draw(st.sampled_from(["reject", "reject", "error"]))
    made["on_bad_row"] = draw(st.sampled_from(["reject", "reject", "reject", "error"]))
    made["reject_budget"] = draw(st.sampled_from([1.0, 1.0, 0.01]))
    made["allow_empty"] = draw(st.booleans())
    if kind == "queries":
        made["on_dup_query"] = draw(st.sampled_from(["error", "reject"]))
    else:
        made["duplicates"] = draw(st.sampled_from(["last", "strict"]))
        made["empty_text"] = draw(st.sampled_from(["reject", "keep"]))
    return made


FITTING: dict[Any, list[Any]] = {
    int: [0, 1, 2, 3, 8, 100, 10_000, 1 << 31, (1 << 63) - 1],
    float: [0, 0.1, 0.5, 1.0, 4.0, 1e9, 1e308],
    bool: [True, False],
    str: ["toy:overlap", "toy:bag-of-words", "builtin:none", "Flat", "IVF4,Flat", "HNSW8", "PQ4"],
    list: [[], ["text"], ["nDCG@10"], [1, 3], ["a", "a"]],
    dict: [{}, {"x": "int64"}, {"id": "_id"}, {"id": "x", "text": "x"}],
    type(None): [None],
}
FITTING[str] += ["IVF1,PQ2", "SQ8", "LSH", "nprobe=3", "english", "none", "05:30", "", "a" * 40]
VALUES = JSON_VALUES | st.sampled_from([v for values in FITTING.values() for v in values])
PATHS = st.sampled_from(
    ["", "\0", "none", "a" * 5000, "gs://b/x", "s3://", "s3://me:hunter2@b/x", "[", "x/*", "~"]
)
# Left as they are: Ray is not started here, and the store's options may name any endpoint.
KEPT = {"cluster.executor", "cluster.address", "storage_options"}


def _fitting(annotation: Any) -> list[Any]:
    """Values of a type, of any size."""
    inside = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return list(inside)
    if known := FITTING.get(typing.get_origin(annotation) or annotation):
        return known
    return [value for part in inside for value in _fitting(part)]


@st.composite
def setting(draw: st.DrawFn, keys: dict[str, FieldInfo]) -> str:
    """`KEY=VALUE`: a key of the config and something to put there, of its type as a rule."""
    key = draw(st.sampled_from(sorted(keys.keys() - KEPT)))
    if key.endswith((".path", ".qrels")) or key == "root":
        value = draw(PATHS)
    elif draw(st.integers(0, 2)):
        value = draw(st.sampled_from(_fitting(keys[key].annotation)))
    else:
        value = draw(VALUES)
    return f"{key.replace('.*.', '.0.')}={json.dumps(value)}"


@st.composite
def spoiled_text(draw: st.DrawFn, text: str) -> bytes:
    """A config's text with a few edits that a person, a disk or an attacker might make."""
    bits = [
        "\t",
        ": ",
        "- ",
        "&a ",
        "*a",
        "!!python/object/apply:os.system [x]",
        "!x ",
        "${A}",
        "<<",
    ]
    bits += [
        "%YAML 9",
        "---",
        "{" * 30,
        "[" * 3000,
        "'",
        "|",
        "\0",
        "\x85",
        "\ufeff",
        ".nan",
        "0x1f",
    ]
    lines = text.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(lines) - 1))
        what = draw(st.integers(0, 4))
        if what == 0:
            lines.insert(at, lines[draw(st.integers(0, len(lines) - 1))])
        elif what == 1 and len(lines) > 1:
            del lines[at]
        elif what == 2:
            lines[at] = " " * draw(st.integers(0, 5)) + lines[at].strip()
        else:
            cut = draw(st.integers(0, len(lines[at])))
            added = draw(st.sampled_from(bits) | st.text(max_size=4))
            lines[at] = lines[at][:cut] + added + lines[at][cut:]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        data += draw(st.binary(max_size=4))
    return data


def lay_out(folder: Path, made: list[Made]) -> str:
    """Writes files into a folder and returns its path."""
    folder.mkdir(parents=True)
    for number, one in enumerate(made):
        (folder / f"{number}{one.suffix}").write_bytes(one.data)
    return str(folder)


@dataclass
class Ending:
    """How a run ended: exit code, what stood on stderr, and the run where it got to its end."""

    code: int
    said: str
    job: Run | None


def play(config: str, whole: bool, sets: list[str] | None = None) -> Ending:
    """Runs a config in this process behind the program's own guard, to `delta` or to its end."""
    ended: list[Run] = []

    def verb(**_: Any) -> None:
        with opened(config, *(sets or ())) as job:
            execute(job, last=None if whole else "delta")
            ended.append(job)

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = guarded(verb)
    return Ending(code, said.getvalue(), ended[0] if ended else None)


def ingested(job: Run, kind: str) -> Manifest:
    """The ingest of the corpus or the queries."""
    manifest = job.report.corpus_rows if kind == "corpus" else job.report.query_rows
    assert manifest is not None
    return manifest


def check(ending: Ending, whole: bool, expected: dict[str, int | None]) -> None:
    """A code of the table, one line or none, and every row of the input accounted for."""
    assert ending.code in EXPECTED_CODES, ending.said
    assert "Traceback" not in ending.said and "E_BUG" not in ending.said
    if ending.job is None:
        assert ending.code != 0 and ending.said.count("\n") == 1, ending.said
        assert ending.said.startswith("nightrank: error[E_") and len(ending.said) < 1200
        return
    assert (ending.code, ending.said) == (0, "")
    for kind, rows in expected.items():
        made = ingested(ending.job, kind)
        parts = [made.total(name) for name in ("accepted", "rejected", "unselected")]
        assert made.total("rows_in") == sum(parts)
        assert made.rows("rejects") == parts[1]
        if rows is not None:
            assert made.total("rows_in") == rows
    if whole:
        entry = generation_of(ending.job.store)
        verify_generation(ending.job.store, entry)  # In = ranked + rejected, among much else.
        assert entry.body["counts"]["rows"]["rejects"] >= sum(
            ingested(ending.job, kind).total("rejected") for kind in expected
        )
