"""Measures of runs against judgements, computed by ir-measures, which uses trec_eval.

Averages are over the queries of the qrels: a query that a run does not answer counts as 0. Runs are
sorted as trec_eval sorts them (score, then doc_id, both descending) before they are measured, since
some providers of ir-measures, that of RR@10 among them, break ties the other way.

Knows nothing about: how and where runs are stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.errors import NightrankError

PER_QUERY_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("run", pa.string()),
        ("measure", pa.string()),
        ("value", pa.float64()),
    ]
)


def parse(measures: list[str]) -> dict[str, Any]:
    """Looks measures up by name, so that a misspelt name is refused when a run is planned.

    Args:
        measures: ir-measures names.

    Returns:
        Name to `ir_measures.Measure`, in the order of the names.

    Raises:
        NightrankError: E_CONFIG for a name that is unknown or needs a provider that is missing.
    """
    import ir_measures

    parsed = {}
    for name in measures:
        try:
            measure = ir_measures.parse_measure(name)
            measure.validate_params()
            ir_measures.evaluator([measure], {"q": {"d": 1}})
        except (
            Exception
        ) as error:  # ValueError, NameError, SyntaxError, AssertionError, KeyError ...
            what = f"cannot measure {name!r}: {error}"
            do = "use ir-measures names, e.g. nDCG@10, RR@10, R@100, AP, P@5"
            raise NightrankError("E_CONFIG", what, "evaluate.measures", do) from None
        parsed[name] = measure
    return parsed


def evaluate(
    qrels: pa.Table,
    runs: dict[str, pa.Table],
    measures: list[str],
    queries: pa.Array | None = None,
) -> pa.Table:
    """Measures runs, query by query.

    Args:
        qrels: columns `query_id`, `doc_id` string, `relevance` int32. A document without a
            judgement counts as not relevant.
        runs: name to table, with columns `query_id`, `doc_id` string, `score` float32. Other
            columns and queries without judgements are ignored.
        measures: ir-measures names, e.g. `nDCG@10`, `RR@10`, `R@100`.
        queries: measures only these query_ids, e.g. those of the runs' input; all by default.

    Returns:
        `PER_QUERY_SCHEMA`: one row per judged query (ascending), run and measure (in the order of
        the arguments). The value is 0 if the run does not answer the query.

    Raises:
        NightrankError: E_CONFIG as `parse`, E_EMPTY without a judged query, E_CORRUPT for a score
            that is not finite or a document that a query has twice.
    """
    import ir_measures

    parsed = parse(measures)
    if queries is not None:
        qrels = qrels.filter(pc.is_in(qrels["query_id"], value_set=_array(queries)))
    judged = _array(pc.unique(qrels["query_id"])).sort()
    if not len(judged):
        raise NightrankError(
            "E_EMPTY", "the qrels judge none of the queries", "evaluate.qrels", "compare the ids"
        )
    relevance = _by_query(qrels, judged, "relevance", "qrels")
    # A measure under two names is computed once.
    evaluator = ir_measures.evaluator(list(set(parsed.values())), relevance)

    ids = judged.to_pylist()
    position = {query_id: i for i, query_id in enumerate(ids)}
    values: dict[tuple[str, str], np.ndarray[Any, np.dtype[np.float64]]] = {}
    for run_name, run in runs.items():
        of = {measure: np.zeros(len(ids)) for measure in parsed.values()}
        for metric in evaluator.iter_calc(
            _by_query(_ranked(run, judged, run_name), judged, "score")
        ):
            of[metric.measure][position[metric.query_id]] = metric.value
        values |= {(run_name, name): of[measure] for name, measure in parsed.items()}
    # Cells in the order (query, run, measure).
    cells = np.array(list(values.values())).reshape(len(values), len(ids)).T.ravel()
    run_column, measure_column = zip(*values, strict=True) if values else ((), ())
    columns = [
        pa.array(np.repeat(np.array(ids, object), len(values)), pa.string()),
        pa.array(list(run_column) * len(ids), pa.string()),
        pa.array(list(measure_column) * len(ids), pa.string()),
        pa.array(cells, pa.float64()),
    ]
    return pa.Table.from_arrays(columns, schema=PER_QUERY_SCHEMA)


def ceiling(qrels: pa.Table, candidates: pa.Table) -> pa.Table:
    """Orders candidates perfectly: the best that any reranking of them can reach.

    Args:
        qrels: as in `evaluate`.
        candidates: columns `query_id`, `doc_id`: all candidates of the first stage.

    Returns:
        `query_id`, `doc_id` string, `score` float32: a candidate's relevance, 0 without a
        judgement or with one below 0 (trec_eval counts neither). Queries without judgements are
        left out.
    """
    judged = _array(pc.unique(qrels["query_id"]))
    candidates = candidates.select(["query_id", "doc_id"])
    candidates = candidates.filter(pc.is_in(candidates["query_id"], value_set=judged))
    grades = qrels.select(["query_id", "doc_id", "relevance"])
    joined = candidates.join(grades, ["query_id", "doc_id"])
    gain = pc.max_element_wise(pc.fill_null(joined["relevance"], 0), 0).cast(pa.float32())
    return joined.select(["query_id", "doc_id"]).append_column("score", gain)


def _ranked(run: pa.Table, judged: pa.Array, name: str) -> pa.Table:
    """The judged queries' rows in trec_eval's order; the score becomes minus the position."""
    run = run.select(["query_id", "doc_id", "score"])
    run = run.filter(pc.is_in(run["query_id"], value_set=judged))
    finite = pc.fill_null(pc.is_finite(run["score"]), False)
    if not pc.all(finite, min_count=0).as_py():
        row = run.filter(pc.invert(finite)).slice(0, 1).to_pylist()[0]
        place = f"query_id {row['query_id']!r}, doc_id {row['doc_id']!r}"
        raise NightrankError("E_CORRUPT", f"run {name}: a score that is not finite", place)
    # Adding 0.0 turns -0.0 into 0.0: the two are a tie, but sort apart.
    run = run.set_column(2, "score", pc.add(run["score"].cast(pa.float64()), 0.0))
    order = [("query_id", "ascending"), ("score", "descending"), ("doc_id", "descending")]
    run = run.sort_by(order)
    return run.set_column(2, "score", pa.array(-np.arange(float(len(run)))))


def _by_query(
    table: pa.Table, judged: pa.Array, column: str, name: str = "run"
) -> dict[str, dict[str, Any]]:
    """Converts rows of judged queries to the nested dicts that pytrec_eval takes."""
    number = pc.index_in(table["query_id"], value_set=judged).to_numpy()
    order = np.argsort(number, kind="stable")
    table, number = table.take(pa.array(order)), number[order]
    doc_ids, values = table["doc_id"].to_pylist(), table[column].to_pylist()
    edges = np.append(np.flatnonzero(np.diff(number, prepend=-1)), len(number)).tolist()
    ids = judged.take(pa.array(number[edges[:-1]], pa.int32())).to_pylist()
    nested = {
        query_id: dict(zip(doc_ids[a:b], values[a:b], strict=True))
        for query_id, a, b in zip(ids, edges[:-1], edges[1:], strict=True)
    }
    for query_id, a, b in zip(ids, edges[:-1], edges[1:], strict=True):
        if len(nested[query_id]) < b - a:
            raise NightrankError(
                "E_CORRUPT", f"{name}: a document occurs twice", f"query_id {query_id!r}"
            )
    return nested


def _array(values: Any) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
