"""Writes a commented config for your own files: `nightrank init my.yaml --corpus … --queries …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightrank.errors import NightrankError

Target = Annotated[Path, typer.Argument(metavar="FILE", help="The YAML file to write.")]
CorpusPath = Annotated[str, typer.Option("--corpus", help="Documents: file, folder or glob.")]
QueriesPath = Annotated[str, typer.Option("--queries", help="Queries: file, folder or glob.")]
Qrels = Annotated[str | None, typer.Option("--qrels", help="Judgements, TREC or BEIR form.")]
Root = Annotated[str, typer.Option("--root", help="The lake: a folder or s3://bucket/prefix.")]

TEMPLATE = """\
# One file is one experiment: nightrank run {file}
name: {name}
root: {root}                    # a folder, or s3://bucket/prefix; must not lie inside an input

corpus:
  path: {corpus}                # file, folder or glob; Parquet, JSONL, CSV, TSV; plain, gzip, zstd
  # columns: {{id: docno, title: headline, text: body}}   # default: _id | doc_id | id, title, text
  # attributes: {{year: int64, lang: string}}             # further columns to carry, typed
  # reject_budget: 0.01         # share of bad rows beyond which the run is refused

queries:
  path: {queries}
  # columns: {{id: qid, text: question, vertical: category}}
  # only_judged: true           # rank only the queries that evaluate.qrels judges

encoder:  {{model: builtin:minilm}}       # or a sentence-transformers folder or hub id
index:    {{factory: auto}}               # or any FAISS factory string, e.g. IVF4096,PQ64
retrieve: {{depth: 100}}                  # candidates per query
rerank:   {{model: builtin:reranker, depth: 100}}   # or a sequence-classification cross-encoder
results:  {{keep: 10}}                    # published rows per query
{evaluate}
cluster:  {{executor: ray}}               # or serial; address: host:6379 of a standing cluster
"""


def init(
    file: Target,
    corpus: CorpusPath = "data/corpus.jsonl",
    queries: QueriesPath = "data/queries.jsonl",
    qrels: Qrels = None,
    root: Root = "./lake",
) -> None:
    """Writes a commented config; every line works as written."""
    measures = "measures: [nDCG@10, RR@10, R@100]"
    evaluate = f"evaluate: {{qrels: {qrels}, {measures}}}"
    if not qrels:
        evaluate = f"# evaluate: {{qrels: data/qrels.tsv, {measures}}}"
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in file.stem.lower()).lstrip("._-")
    text = TEMPLATE.format(
        file=file,
        name=name or "experiment",
        root=root,
        corpus=corpus,
        queries=queries,
        evaluate=evaluate,
    )
    try:
        with open(file, "x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        what, do = "the file exists and is left as it is", "choose another name"
        raise NightrankError("E_USAGE", what, str(file), do) from None
    except OSError as error:
        raise NightrankError("E_USAGE", f"cannot write: {error.strerror}", str(file)) from None
    print(f"wrote {file}; next: nightrank run {file}")
