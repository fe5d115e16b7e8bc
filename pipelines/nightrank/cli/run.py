"""Runs the pipeline: `nightrank run CONFIG`, `python -m nightrank run CONFIG`.

nightrank run configs/nightly.yaml
nightrank run my.yaml --set rerank.depth=50 --set cluster.executor=serial
nightrank run my.yaml --to merge          # retrieve only, publish nothing
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets, open_job
from nightrank.errors import NightrankError

if TYPE_CHECKING:
    from nightrank.flow.offline_rerank import Run

First = Annotated[
    str | None,
    typer.Option("--from", metavar="STAGE", help="Refuse to run unless all before it is done."),
]
Last = Annotated[str | None, typer.Option("--to", metavar="STAGE", help="Stop after this stage.")]


def run(
    config: ConfigPath,
    sets: Sets = None,
    first: First = None,
    last: Last = None,
    json: Json = False,
) -> None:
    """Corpus + queries -> ranked Parquet; the same command resumes, or does nothing if done."""
    from nightrank.process.without_pandas import without_pandas

    without_pandas()  # Before anything else imports it.
    from nightrank.flow.offline_rerank import STAGES

    for option, name in (("--from", first), ("--to", last)):
        if name is not None and name not in STAGES:
            do = f"stages: {', '.join(STAGES)}"
            raise NightrankError("E_USAGE", f"{option} {name}: no such stage", "", do)
    started = time.monotonic()
    publishes = last in (None, *STAGES[STAGES.index("publish") :])
    with open_job(config, sets, quiet=json, publishes=publishes) as job:
        summary = execute(job, first, last)
    close(summary, job, started, command("results", config, sets, "--files"), json)


def close(summary: dict[str, Any], job: Run, started: float, then: str, json: bool) -> None:
    """The closing line or lines; a run that was cut short ends with its reason all the same.

    Args:
        summary: as `execute` returns it.
        job: the run.
        started: `time.monotonic()` when the verb was.
        then: the command that shows what is published.
        json: whether one line is asked for.
    """
    summary["seconds"] |= {"total": round(time.monotonic() - started, 2)}
    if json:
        print_json({**summary, **(job.cut_short.to_dict() if job.cut_short else {})})
    else:
        tell(summary, then)
    if job.cut_short:
        raise job.cut_short


def execute(job: Run, first: str | None = None, last: str | None = None) -> dict[str, Any]:
    """Runs, publishes and evaluates as asked; returns the closing line's content."""
    from nightrank.flow import offline_rerank as pipeline
    from nightrank.generations.results import generation_of
    from nightrank.generations.rollbacks import resume

    plan = job.plan
    if plan.published is not None and first is None and last is None:
        entry = generation_of(job.store, plan.published)
        job.progress.note("this plan is already published and current: nothing to do")
        if job.force_publish:  # It was asked for though a rollback is in force: that ends.
            resume(job.store, job.force_publish)
    else:
        job.first = first or job.first
        wanted = last if last and last != "evaluate" else "publish"
        done = pipeline.run(job, wanted)
        if plan.scope == "index":
            index = job.index.generation if job.index else None
            return {"index_generation": index, **night(job), "seconds": job.progress.seconds}
        if done is None:
            left_out = files_left_out(job)
            stopped = {"generation": None, "stopped_after": last, "files_left_out": left_out}
            return {**stopped, "seconds": job.progress.seconds}
        entry = done
    summary = {
        "generation": entry.generation,
        "index_generation": entry.body["index_generation"],
        "published": plan.published is None,
        "already_published": plan.published is not None,
        "gate": entry.body.get("gate"),
        "unfinished": entry.body["unfinished"],
        "precision": entry.body.get("precision", {}),
        "cut": entry.body.get("cut", []),
        **night(job),
        **entry.body["counts"],
        **{name: entry.body[name] for name in ("forecast", "actual") if name in entry.body},
        "units": job.progress.units,
        "seconds": job.progress.seconds,
        "files": [job.store.path(file["key"]) for file in entry.body["files"]["ranked"]],
    }
    if plan.qrels is not None and last != "publish":
        try:
            manifest = pipeline.run_evaluation(
                plan.config, job.store, job.executor, job.progress, entry
            )
        except NightrankError as error:
            what = f"generation {entry.generation} is published but not measured: {error.what}"
            if error.code == "E_EMPTY":  # The judgements are of other queries: no harm was done.
                job.progress.note(what)
                return {**summary, "not_measured": what}
            raise NightrankError(error.code, what, error.where, error.do) from error
        summary["measures"] = manifest.shards[0].stats["measures"]
        summary["judgements"] = manifest.shards[0].stats["judgements"]
        summary["evaluation"] = manifest.path
        summary["report"] = job.store.path(manifest.shards[0].files["report"].key)
    return summary


def files_left_out(job: Run) -> dict[str, dict[str, int]]:
    """Files of the corpus and of the queries that were not read, counted by reason."""
    return {name: files.counts for name, files in job.plan.left_out.items()}


def night(job: Run) -> dict[str, Any]:
    """What this run had to do: documents and pairs, new and taken over."""
    ingested, delta = job.made.get("corpus.ingest"), job.made.get("corpus.delta")
    came = {"added": 0, "changed": 0, "removed": 0}
    if delta and not job.plan.corpus_stands:
        came = {name: delta.total(name) for name in came}
    scored = [made for name, made in job.made.items() if name.startswith("scores.")]
    pairs = sum(made.total("pairs") for made in scored)
    fresh = sum(made.total("pairs_scored") for made in scored)
    queries = job.made.get("queries.ingest")
    return {
        "documents_in": ingested.total("rows_in") if ingested else 0,
        **{f"documents_{name}": count for name, count in came.items()},
        "documents_embedded": job.embedded,
        "queries_in": queries.total("rows_in") if queries else 0,
        "pairs_needed": pairs,
        "pairs_reused": pairs - fresh,
        "pairs_scored": fresh,
        "files_left_out": files_left_out(job),
    }


def tell(summary: dict[str, Any], then: str) -> None:
    """The closing lines for a person; `then` is the command that shows what is published."""
    from nightrank.datasets import cut_inputs
    from nightrank.evaluation import coverage
    from nightrank.evaluation.coverage import Coverage
    from nightrank.generations import prediction

    if summary["generation"] is None:
        print(f"stopped after {summary['stopped_after']} as asked; nothing was published")
        return
    for kind in ("documents", "queries"):
        counts = summary[kind]
        parts = ", ".join(
            f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if name != "in"
        )
        print(f"{kind}: {counts['in']} in = {parts}")
    for kind, reasons in summary["files_left_out"].items():
        if reasons:
            parts = ", ".join(
                f"{n} {name.replace('_', ' ')}" for name, n in sorted(reasons.items())
            )
            print(f"{kind} files left out: {parts}")
    came = [f"{summary[f'documents_{n}']} {n}" for n in ("added", "changed", "removed", "embedded")]
    if summary["index_generation"] > 1 and not summary["already_published"]:
        print(f"corpus: {', '.join(came)}")
    if summary["pairs_needed"]:
        print(
            f"pairs: {summary['pairs_needed']} = {summary['pairs_reused']} known + "
            f"{summary['pairs_scored']} scored"
        )
    for line in cut_inputs.lines(summary["cut"]):
        print(line)
    for name, values in summary.get("measures", {}).items():
        before, after, best = (values[k] for k in ("first_stage", "reranked", "ceiling"))
        print(f"{name}: {before:.4f} first stage -> {after:.4f} reranked (ceiling {best:.4f})")
    if "judgements" in summary:
        covered = [Coverage.from_dict(one) for one in summary["judgements"].values()]
        print(*coverage.describe(covered), sep="\n")
    if "report" in summary:
        print(f"report: {summary['report']}")
    for step, measured in summary["precision"].items():
        share = measured["flipped"] / max(1, measured["compared"])
        print(
            f"{step}: {measured['precision']} changes {share:.1%} of fp32's best 10"
            f" ({measured['queries']} queries scored in both)"
        )
    if summary["gate"] and not summary["gate"]["passed"]:
        print(f"published against the gate: {summary['gate']['forced']}")
    if line := prediction.told(summary):
        print(line)
    rows = summary["rows"]["ranked"]
    done = "already published as" if summary["already_published"] else "published"
    print(
        f"{done} generation {summary['generation']}: {rows} ranked rows in "
        f"{len(summary['files'])} Parquet file(s), {summary['seconds']['total']:.1f} s"
    )
    print(f"read them: {then}")
