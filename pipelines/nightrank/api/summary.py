"""A result as lines for a person, as the command line ends with them."""

from __future__ import annotations

from collections.abc import Mapping

from nightrank.api.records import Counts
from nightrank.api.result import Result
from nightrank.datasets import cut_inputs
from nightrank.evaluation import coverage
from nightrank.generations import stored_forecast


def lines(result: Result) -> list[str]:
    """Counts, measures, and what was published or reused."""
    if result.stopped_after and result.generation is None:
        return [f"stopped after {result.stopped_after} as asked; nothing was published"]
    if result.generation is None or result.counts is None:
        return [_index_line(result)]
    shown = [*_counts(result.counts), *_left_out(result), *_work(result)]
    shown += cut_inputs.lines(inputs.to_dict() for inputs in result.cut)
    shown += _measures(result)
    if result.report:
        shown.append(f"report: {result.report}")
    shown += _precision(result)
    if result.gate and not result.gate.passed:
        shown.append(f"published against the gate: {result.gate.forced}")
    if line := stored_forecast.comparison(result.forecast, result.actual):
        shown.append(line)
    if result.unfinished:
        shown.append(f"unfinished: {result.unfinished}")
    rows, files = result.counts.rows["ranked"], len(result.files)
    done = "already published as" if result.already_published else "published"
    total = result.seconds.get("total", 0.0)
    shown.append(
        f"{done} generation {result.generation}: {rows} ranked rows in {files} Parquet file(s),"
        f" {total:.1f} s"
    )
    return shown


def _index_line(result: Result) -> str:
    work = result.work
    done = "published" if result.published else "nothing to do, still"
    return (
        f"{done} index generation {result.index_generation}: {work.documents_added} added,"
        f" {work.documents_changed} changed, {work.documents_removed} removed,"
        f" {work.documents_embedded} embedded, {result.seconds.get('total', 0.0):.1f} s"
    )


def _counts(counts: Counts) -> list[str]:
    shown = []
    for kind, of_kind in (("documents", counts.documents), ("queries", counts.queries)):
        parts = _parts({name: count for name, count in of_kind.items() if name != "in"})
        shown.append(f"{kind}: {of_kind['in']} in = {parts}")
    return shown


def _left_out(result: Result) -> list[str]:
    return [
        f"{kind} files left out: {_parts(dict(sorted(reasons.items())))}"
        for kind, reasons in result.work.files_left_out.items()
        if reasons
    ]


def _parts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def _work(result: Result) -> list[str]:
    work, shown = result.work, []
    if (result.index_generation or 0) > 1 and result.published:
        shown.append(
            f"corpus: {work.documents_added} added, {work.documents_changed} changed,"
            f" {work.documents_removed} removed, {work.documents_embedded} embedded"
        )
    if work.pairs_needed:
        shown.append(
            f"pairs: {work.pairs_needed} = {work.pairs_reused} known + {work.pairs_scored} scored"
        )
    return shown


def _measures(result: Result) -> list[str]:
    shown = [
        f"{name}: {measure.first_stage:.4f} first stage -> {measure.reranked:.4f} reranked"
        f" (ceiling {measure.ceiling:.4f})"
        for name, measure in result.measures.items()
    ]
    if result.judgements:
        shown += coverage.describe(list(result.judgements))
    return shown


def _precision(result: Result) -> list[str]:
    return [
        f"{step}: {check.precision} changes {check.flipped / max(1, check.compared):.1%}"
        f" of fp32's best 10 ({check.queries} queries scored in both)"
        for step, check in result.precision.items()
    ]
