"""One query's list, as it was published: `nightrank show CONFIG QUERY_ID`.

nightrank show my.yaml q17
nightrank show my.yaml q17 --limit 0 --json     # every scored candidate, one JSON line

Judgements come from `evaluate.qrels`, titles from the corpus of the generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets
from nightrank.errors import NightrankError

if TYPE_CHECKING:
    from nightrank.config.schema import PipelineConfig
    from nightrank.generations.one_query import QueryList

QueryId = Annotated[str, typer.Argument(metavar="QUERY_ID", help="As in the queries.")]
Limit = Annotated[
    int, typer.Option("--limit", min=0, help="Candidates to show; 0 shows every scored one.")
]
TITLE_LENGTH, TEXT_LENGTH, MISSING_SHOWN = 60, 200, 5
# Columns in this order, then the scores of steps.
HEADINGS = {
    "rank": "rank",
    "first_stage_rank": "first",
    "score": "score",
    "rerank_score": "rerank",
    "first_stage_score": "first stage",
    "first_stage_dense_score": "dense",
    "first_stage_bm25_score": "bm25",
}


def show(
    config: ConfigPath,
    query_id: QueryId,
    sets: Sets = None,
    generation: Generation = None,
    limit: Limit = 10,
    json: Json = False,
) -> None:
    """One query's list: both ranks, all scores, judgements and titles; or why it has no list."""
    from nightrank.config.file import load_config
    from nightrank.generations.one_query import find_query
    from nightrank.generations.results import generation_of, open_lake

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    query = find_query(store, entry, query_id, limit)
    judged, note = _judgements(loaded, query_id)
    for row in query.rows:
        row["relevance"] = judged.get(row["doc_id"])
    missing = sorted(
        (relevance, doc_id)
        for doc_id, relevance in judged.items()
        if relevance > 0 and doc_id not in {row["doc_id"] for row in query.rows}
    )[::-1]
    if json:
        plain = {"generation": entry.generation, "query": {**query.about, "text": query.text}}
        not_shown = [{"doc_id": doc_id, "relevance": grade} for grade, doc_id in missing]
        print_json({**plain, "list": query.rows, "relevant_not_shown": not_shown, "note": note})
        return
    print("\n".join([*_heading(query, entry.generation), *_lines(query.rows)]))
    if missing:
        named = ", ".join(f"{doc_id} ({grade})" for grade, doc_id in missing[:MISSING_SHOWN])
        more = f" and {len(missing) - MISSING_SHOWN} more" if len(missing) > MISSING_SHOWN else ""
        print(f"judged relevant, not shown: {named}{more}")
    if note:
        print(note)


def _judgements(config: PipelineConfig, query_id: str) -> tuple[dict[str, int], str]:
    """Relevance by doc_id; and a line if judgements are given and none is of this query."""
    import pyarrow.compute as pc

    from nightrank.datasets.judgements import load_qrels

    if config.evaluate.qrels is None:
        return {}, ""
    try:
        qrels = load_qrels(config.evaluate.qrels, config.storage_options)
    except NightrankError as error:
        return {}, f"without judgements: {error.what} ({config.evaluate.qrels})"
    mine = qrels.filter(pc.equal(qrels["query_id"], query_id))
    judged = dict(zip(mine["doc_id"].to_pylist(), mine["relevance"].to_pylist(), strict=True))
    return judged, "" if judged else "the judgements do not name this query"


def _heading(query: QueryList, generation: int) -> list[str]:
    """The query, its attributes and its status."""
    about = dict(query.about)
    query_id, status, reason = (about.pop(key) for key in ("query_id", "status", "reason"))
    count, vertical, policy = (about.pop(key) for key in ("num_candidates", "vertical", "policy"))
    facts = {"vertical": vertical, **{k: v for k, v in about.items() if v is not None}}
    named = ", ".join(f"{key} {_plain(value)}" for key, value in facts.items() if value != "")
    lines = [f"query {_plain(query_id)}{f' ({named})' if named else ''}: {_plain(query.text)}"]
    outcome = f"generation {generation}: {status}"
    if status == "ranked":
        shown = f", {len(query.rows)} shown" if len(query.rows) < count else ""
        return [*lines, f"{outcome} by {policy}, {count} candidates{shown}"]
    return [*lines, f"{outcome}{f', {reason}' if reason else ''}; no list"]


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    """A table of the list; columns are as wide as their widest cell."""
    if not rows:
        return []
    steps = [key for key in rows[0] if key.endswith("_score") and key not in HEADINGS]
    numbers = {key: HEADINGS.get(key, key.removesuffix("_score")) for key in [*HEADINGS, *steps]}
    numbers = {key: heading for key, heading in numbers.items() if key in rows[0]}
    if any(row["relevance"] is not None for row in rows):
        numbers["relevance"] = "judged"
    cells = [list(numbers.values())]
    cells += [[_number(row[key]) for key in numbers] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    names = [_plain(row["doc_id"]) for row in rows]
    width = max(map(len, ["document", *names]))
    titles = [_plain(row["title"])[:TITLE_LENGTH] for row in rows]
    tails = [f"{n:<{width}}  {t}" for n, t in zip(names, titles, strict=True)]
    return [
        "  ".join([*(cell.rjust(w) for cell, w in zip(line, widths, strict=True)), tail]).rstrip()
        for line, tail in zip(cells, ["document", *tails], strict=True)
    ]


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> str:
    """A text on one line, truncated, with control characters escaped."""
    text = " ".join(str(value).split())
    text = text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]} ..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
