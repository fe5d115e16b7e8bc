"""Writes a commented config for your own files: `nightrank init my.yaml --corpus … --queries …`.

It reads the first rows of the inputs, names the columns that it finds and says what looks wrong.
Paths of files that do not exist yet are written too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightrank.cli.paths import any_path, local_path
from nightrank.errors import NightrankError

if TYPE_CHECKING:
    from nightrank.diagnosis.suggestion import Suggestion

Target = Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")]
CorpusPath = Annotated[str, typer.Option("--corpus", help="Documents: file, folder or glob.")]
QueriesPath = Annotated[str, typer.Option("--queries", help="Queries: file, folder or glob.")]
Qrels = Annotated[str | None, typer.Option("--qrels", help="Judgements, TREC or BEIR form.")]
Root = Annotated[str, typer.Option("--root", help="The lake: a folder or s3://bucket/prefix.")]

TEMPLATE = """\
# One file is one experiment: `nightrank doctor FILE`, `nightrank plan FILE`, `nightrank run FILE`.
name: {name}
root: {root}  # a folder, or s3://bucket/prefix; must not be inside an input

corpus:
  path: {corpus}  # file, folder or glob; Parquet, JSONL, CSV, TSV; plain, gzip, zstd
{corpus_lines}
  # reject_budget: 0.01         # share of bad rows beyond which the run is refused

queries:
  path: {queries}
{queries_lines}
  # only_judged: true           # rank only the queries that evaluate.qrels judges

encoder:  {{model: builtin:minilm}}       # or a sentence-transformers folder or hub id
index:    {{factory: auto}}               # or any FAISS factory string, e.g. IVF4096,PQ64
retrieve: {{depth: 100}}                  # candidates per query
rerank:   {{model: builtin:reranker, depth: 100}}   # or a sequence-classification cross-encoder
results:  {{keep: 10}}                    # published rows per query
{evaluate}
cluster:  {{executor: ray}}               # or serial; address: host:6379 of an existing cluster
"""
MEASURES = "measures: [nDCG@10, RR@10, R@100]"
EXAMPLES = {
    "corpus": ("{id: docno, title: headline, text: body}", "{year: int64, lang: string}"),
    "queries": ("{id: qid, text: question, vertical: category}", "{source: string}"),
}
USUAL = {
    "corpus": "_id | doc_id | id, title, text",
    "queries": "_id | query_id | id, text, vertical",
}
LONGEST_NAME = 100
# Somebody waits: a store that is down is asked less often than by a run.
HASTY = {"retry": {"tries": 2}}


def init(
    file: Target,
    corpus: CorpusPath = "data/corpus.jsonl",
    queries: QueriesPath = "data/queries.jsonl",
    qrels: Qrels = None,
    root: Root = "./lake",
) -> None:
    """Writes a commented config after a look at the first rows; every line works as written."""
    from nightrank.config.file import load_text
    from nightrank.config.schema import PipelineConfig
    from nightrank.config.yaml_text import written
    from nightrank.inputs.splits import is_inside

    given = {
        "FILE": str(file),
        "--corpus": corpus,
        "--queries": queries,
        "--qrels": qrels,
        "--root": root,
    }
    for option, value in given.items():
        if value is not None:
            _check(option, value)
    file = local_path(file)
    if os.path.lexists(file):
        raise _exists(file)
    for option, path in (("--corpus", corpus), ("--queries", queries)):
        if is_inside(any_path(root), any_path(path)):
            what = f"--root {root} and {option} {path} overlap"
            raise NightrankError("E_USAGE", what, "", "choose another --root")
    judged, notes = _judged(qrels)
    suggestions = {}
    for kind, path in (("corpus", corpus), ("queries", queries)):
        suggestions[kind], seen = _look(kind, path, judged if kind == "queries" else None)
        notes += seen
    evaluate = f"# evaluate: {{qrels: data/qrels.tsv, {MEASURES}}}"
    if qrels is not None:
        evaluate = f"evaluate: {{qrels: {written(qrels)}, {MEASURES}}}"
    name = experiment_name(file.stem)
    text = TEMPLATE.format(
        name=written(name),
        root=written(root),
        corpus=written(corpus),
        queries=written(queries),
        corpus_lines=_section("corpus", suggestions["corpus"]),
        queries_lines=_section("queries", suggestions["queries"]),
        evaluate=evaluate,
    )
    read = load_text(PipelineConfig, text, str(file))
    places = [read.root, read.corpus.path, read.queries.path, read.evaluate.qrels]
    if [read.name, *places] != [
        name,
        *(at and any_path(at) for at in (root, corpus, queries, qrels)),
    ]:
        raise NightrankError("E_USAGE", "these paths cannot be written into a config", str(file))
    try:
        with open(file, "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        what, do = f"cannot write: {error.strerror}", "choose another file"
        raise NightrankError("E_USAGE", what, str(file), do) from None
    quoted = shlex.quote(f"./{file}" if str(file).startswith("-") else str(file))
    print("\n".join([f"wrote {quoted}", *notes]))
    print(f"next: nightrank doctor {quoted}, then nightrank plan {quoted}")


def experiment_name(stem: str) -> str:
    """A valid name for an experiment.

    Two configs of one name and root share a lake: a digest of the stem is added if some of its
    letters or digits are not allowed in a name.
    """
    ascii_only = unicodedata.normalize("NFKD", stem.lower()).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9._-]", "-", ascii_only).strip("._-")[:LONGEST_NAME]
    letters = [c for c in unicodedata.normalize("NFKC", stem.lower()) if c.isalnum()]
    kept = [c for c in name if c.isalnum()]
    if len(kept) == len(letters) and kept:
        return name
    digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
    return f"{name.strip('._-') or 'experiment'}-{digest}"


def _exists(file: Path) -> NightrankError:
    what, do = "the file exists already and was not changed", "choose another name"
    return NightrankError("E_USAGE", what, str(file), do)


def _check(option: str, value: str) -> None:
    """Refuses values that a config cannot contain."""
    try:
        value.encode()
    except UnicodeEncodeError:
        what, do = f"{option} is not valid UTF-8", "rename the file or its folder"
        raise NightrankError("E_USAGE", what, ascii(value), do) from None
    if not value:
        raise NightrankError("E_USAGE", f"{option} is empty", "", "give a path")
    if "${" in value:
        do = "rename the file or its folder"
        raise NightrankError("E_USAGE", f"{option} contains ${{, which a config refuses", value, do)


def _judged(qrels: str | None) -> tuple[set[str] | None, list[str]]:
    """The judged query ids, and a line for the user."""
    from nightrank.datasets.judgements import load_qrels
    from nightrank.inputs.listing import store_errors

    if qrels is None:
        return None, []
    try:
        with store_errors(qrels, "E_EMPTY"):
            table = load_qrels(any_path(qrels), HASTY if qrels.startswith("s3://") else {})
    except NightrankError as error:
        return None, [f"  qrels: {error.what}; the path is written anyway"]
    judged = set(table["query_id"].to_pylist())
    return judged, [f"  qrels: {table.num_rows} judgements of {len(judged)} queries"]


def _look(kind: str, path: str, judged: set[str] | None) -> tuple[Suggestion | None, list[str]]:
    """What the first rows say, and lines for the user."""
    from nightrank.diagnosis.first_rows import first_rows
    from nightrank.diagnosis.suggestion import suggest

    try:
        rows = first_rows(any_path(path), HASTY if path.startswith("s3://") else {})
    except NightrankError as error:
        return None, [f"  {kind}: {error.what}; the path is written anyway"]
    found = suggest(kind, rows, judged)
    named = ", ".join(f"{ours} in {name!r}" for ours, name in found.names.items())
    line = f"  {kind}: {rows.files} file(s), {' and '.join(rows.formats)}; {named or 'no column'}"
    if found.attributes:
        line += f"; {len(found.attributes)} further column(s)"
    return found, [line, *(f"  {kind}: {note}" for note in found.notes)]


def _section(kind: str, suggestion: Suggestion | None) -> str:
    """The lines of an input's section below its path."""
    from nightrank.config.yaml_text import written

    columns, attributes = EXAMPLES[kind]
    lines = []
    if suggestion and suggestion.columns:
        pairs = ", ".join(f"{ours}: {written(name)}" for ours, name in suggestion.columns.items())
        lines.append(f"  columns: {{{pairs}}}")
    else:
        lines.append(f"  # columns: {columns}   # default: {USUAL[kind]}")
    if suggestion and suggestion.attributes:
        pairs = ", ".join(f"{written(name)}: {t}" for name, t in suggestion.attributes.items())
        lines.append("  # Further columns that were found; uncomment to carry them along:")
        attributes = f"{{{pairs}}}"
    lines.append(f"  # attributes: {attributes}")
    if suggestion and suggestion.verticals:
        shown = ", ".join(written(value) for value in suggestion.verticals[:10])
        more = ", ..." if len(suggestion.verticals) > 10 else ""
        lines.append(f"  # verticals in the first rows: {shown}{more}")
    return "\n".join(lines)
