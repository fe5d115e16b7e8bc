"""The contribution of each part of the ranking on real collections.

    python -m benchmarks.quality --data DATA --work WORK --out benchmarks/results

For every collection the pipeline runs twice over one lake (vectors alone; vectors and BM25, then
reranked) on a fixed sample of its queries. Everything in the tables comes from these two
publications: the dense list alone, the fused first stage, the list by the reranker's raw score, the
published list, and the best order of each list of candidates. Lifts are against the dense list
alone; intervals are a paired bootstrap over queries (within each collection, where several are
averaged). The depth and weight curves come from the same scored lists: only the head reranked, or
another share of the first stage in the fused score. An interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import beir
from benchmarks.arguments import add_data, add_out, need_collections
from benchmarks.reporting import as_json, machine, table
from nightrank.api.config import load_config
from nightrank.api.execution import Request, execute, open_run
from nightrank.evaluation import measures
from nightrank.generations.results import full_lists, generation_of
from nightrank.generations.stage_order import versions
from nightrank.models.registry import resolve_cross_encoder
from nightrank.retrieval import ranking
from nightrank.runtime.progress import Progress
from nightrank.stages.ingest import load_qrels
from nightrank.storage.fingerprint import fingerprint

# name, split of the qrels, vertical, whether training saw nothing of its kind of text
COLLECTIONS = (
    ("scifact", "test", "science", False),
    ("cranfield", "test", "science", True),
    ("cuad-dev", "test", "legal", False),
    ("policyqa-dev", "dev", "legal", True),
    ("medquad", "dev", "medical", False),
    ("liveqa-med", "test", "medical", True),
    ("nfcorpus", "dev", "medical", True),
    ("tatqa-dev", "dev", "finance", False),
    ("financebench-dev", "test", "finance", True),
)
MEASURE = "nDCG@10"
DEPTHS = (10, 20, 50, 100)
WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
DRAWS = 10_000
RUNS = ("dense", "first_stage", "raw", "reranked", "dense_ceiling", "ceiling")


@dataclass(frozen=True)
class Settings:
    """How collections are measured.

    Attributes:
        data: folder of the collections, in BEIR layout.
        work: folder of the lake, the configs and the collections measured so far.
        queries: maximum for each collection.
        precision: of the bi-encoder.
        model: the reranker.
        depth: how many candidates it scores.
        threads: of the one worker.
    """

    data: Path
    work: Path
    queries: int
    precision: str
    model: str
    depth: int
    threads: int


def sample(source: Path, target: Path, count: int) -> None:
    """The judgements of `count` queries that have a relevant document, drawn with seed 0."""
    header, *lines = source.read_text().splitlines()
    rows = [line.split("\t") for line in lines]
    answerable = sorted({query for query, _, grade in rows if int(grade) > 0})
    kept = set(random.Random(0).sample(answerable, min(count, len(answerable))))
    chosen = [line for line, row in zip(lines, rows, strict=True) if row[0] in kept]
    target.write_text("\n".join([header, *chosen]) + "\n")


def publish(
    plain: dict[str, Any], config: Path, sets: list[str]
) -> tuple[pa.Table, dict[str, Any]]:
    """Runs the pipeline; the full lists that it published, and facts about the run."""
    config.write_text(json.dumps(plain))
    with open_run(load_config(config, sets), Request(), Progress()) as job:
        result = execute(job)
        lists = full_lists(job.store, generation_of(job.store))
        plan = job.plan
        models = [{"model": m.model, "precision": m.precision} for m in (plan.encoder, *plan.steps)]
        weight = plan.weight(0) if plan.steps else 0.0
    return lists, {
        "seconds": result.seconds,
        "models": models,
        "first_stage_weight": weight,
    }


def with_score(lists: pa.Table, score: pa.Array) -> pa.Table:
    return lists.select(["query_id", "doc_id"]).append_column("score", score)


def rescored(lists: pa.Table, depth: int, weight: float) -> pa.Table:
    """The list that reranking only the first `depth` of the first stage gives."""
    lists = lists.sort_by([("query_id", "ascending"), ("first_stage_rank", "ascending")])
    query = lists["query_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    rank, first = (lists[f"first_stage_{n}"].to_numpy() for n in ("rank", "score"))
    head = rank <= depth
    scores = np.zeros(len(rank), np.float32)
    raw = lists["rerank_score"].to_numpy()
    scores[head] = ranking.fuse(first[head], raw[head], query[head].astype(np.int32), weight)
    whole = ranking.head_then_tail(first, scores, query.astype(np.int32), rank, depth)
    return with_score(lists, pa.array(whole))


def per_query(qrels: pa.Table, runs: dict[str, pa.Table]) -> dict[str, np.ndarray]:
    """nDCG@10 of every query, in one order, by run."""
    table = measures.evaluate(qrels, runs, [MEASURE]).sort_by("query_id")
    return {n: table.filter(pc.equal(table["run"], n))["value"].to_numpy() for n in runs}


def measure(name: str, split: str, settings: Settings) -> dict[str, Any]:
    """All values of one collection, stored in `work` so that an interrupted run resumes."""
    digest = resolve_cross_encoder(settings.model).digest
    what = [settings.queries, settings.precision, settings.depth, digest, versions()]
    kept = settings.work / f"{name}-{fingerprint(what)}.json"
    if not kept.exists():
        kept.write_text(json.dumps(_measure(name, split, settings)))
    return dict(json.loads(kept.read_text()))


def _measure(name: str, split: str, settings: Settings) -> dict[str, Any]:
    folder, work = settings.data / name, settings.work
    qrels_path = work / f"{name}.tsv"
    sample(folder / "qrels" / f"{split}.tsv", qrels_path, settings.queries)
    plain: dict[str, Any] = {
        "name": name,
        "root": str(work / "lake"),
        "corpus": {"path": str(beir.path(folder, "corpus"))},
        "queries": {"path": str(beir.path(folder, "queries")), "only_judged": True},
        "encoder": {"precision": settings.precision},
        "rerank": {"model": settings.model, "depth": settings.depth},
        "evaluate": {"qrels": str(qrels_path), "measures": [MEASURE, "R@100"]},
        "cluster": {"executor": "serial", "threads_per_worker": settings.threads},
    }
    config, qrels = work / f"{name}.yaml", load_qrels(str(qrels_path), {})
    dense, _ = publish({**plain, "rerank": []}, config, ["retrieve.bm25.weight=0"])
    lists, facts = publish(plain, config, [])
    runs = {
        "dense": with_score(dense, dense["first_stage_score"]),
        "first_stage": with_score(lists, lists["first_stage_score"]),
        "published": with_score(lists, lists["score"]),
        "dense_ceiling": measures.ceiling(qrels, dense),
        "ceiling": measures.ceiling(qrels, lists),
    }
    depths = sorted({settings.depth, *(d for d in DEPTHS if d < settings.depth)})
    runs |= {at(w, d): rescored(lists, d, w) for w in WEIGHTS for d in depths}
    values = {run: by_query.tolist() for run, by_query in per_query(qrels, runs).items()}
    return {"values": values, "depths": depths, **facts}


def at(weight: float, depth: int) -> str:
    """Name of the list with this first-stage weight and this reranked depth."""
    return f"w={weight} @{depth}"


def chosen(part: dict[str, Any], weight: float) -> dict[str, Any]:
    """A collection's `values` by `RUNS`, and its curves, for one first-stage weight."""
    values, depth = part["values"], part["depths"][-1]
    named = {"raw": at(0.0, depth), "reranked": at(weight, depth)}
    return {
        "values": {run: values[named.get(run, run)] for run in RUNS},
        "depth_curve": {f"@{d}": float(np.mean(values[at(weight, d)])) for d in part["depths"]},
        "weight_curve": {f"w={w}": float(np.mean(values[at(w, depth)])) for w in WEIGHTS},
    }


def lift(parts: list[dict[str, Any]], run: str, stream: str) -> dict[str, float]:
    """Mean over collections of a run's relative lift over the dense list, and its 95 % interval."""
    generator = np.random.default_rng([0, zlib.crc32(stream.encode())])
    drawn, lifts = np.zeros(DRAWS), []
    for part in parts:
        after, before = (np.array(part["values"][n]) for n in (run, "dense"))
        rows = generator.integers(0, len(before), (DRAWS, len(before)))
        drawn += after[rows].mean(axis=1) / np.maximum(before[rows].mean(axis=1), 1e-9) - 1.0
        lifts.append(after.mean() / before.mean() - 1.0)
    low, high = np.percentile(drawn / len(parts), (2.5, 97.5))
    return {"lift": float(np.mean(lifts)), "low": float(low), "high": float(high)}


def curve(parts: list[dict[str, Any]], name: str) -> dict[str, float]:
    """The mean of a curve over collections, at the points that all of them have."""
    points = [p for p in parts[0][name] if all(p in part[name] for part in parts)]
    return {p: float(np.mean([part[name][p] for part in parts])) for p in points}


def summary(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per collection, per vertical, for collections left out of training, and overall."""
    groups = {name: [name] for name in measured}
    for vertical in sorted({v for n, _, v, _ in COLLECTIONS if n in measured}):
        groups[f"all {vertical}"] = [n for n, _, v, _ in COLLECTIONS if v == vertical]
    groups["all left out of training"] = [n for n, _, _, left_out in COLLECTIONS if left_out]
    groups["all"] = [n for n, *_ in COLLECTIONS]
    rows = []
    for name, members in groups.items():
        parts = [measured[member] for member in members if member in measured]
        if not parts:
            continue
        means = {r: float(np.mean([np.mean(p["values"][r]) for p in parts])) for r in RUNS}
        rows.append(
            {
                "name": name,
                "queries": sum(len(p["values"]["dense"]) for p in parts),
                **means,
                "first_stage_lift": lift(parts, "first_stage", name),
                "raw_lift": lift(parts, "raw", name),
                "reranked_lift": lift(parts, "reranked", name),
                "depth_curve": curve(parts, "depth_curve"),
                "weight_curve": curve(parts, "weight_curve"),
            }
        )
    return rows


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Three tables: the parts, by depth, by weight."""
    titles = ["collection", "queries", "dense", "+ BM25", "raw reranked", "reranked"]
    titles += ["ceiling dense", "ceiling", "lift + BM25", "lift reranked", "95 %"]
    lines = []
    for row in rows:
        both, final = row["first_stage_lift"], row["reranked_lift"]
        cells = [row["name"], str(row["queries"]), *(f"{row[run]:.3f}" for run in RUNS)]
        cells += [f"{both['lift']:+.1%}", f"{final['lift']:+.1%}"]
        lines.append([*cells, f"{final['low']:+.1%} to {final['high']:+.1%}"])
    text = table(titles, lines)
    for name, what in (("depth_curve", "reranked depth"), ("weight_curve", "first-stage weight")):
        points = list(rows[-1][name])
        lines = [[r["name"], *(f"{r[name][point]:.3f}" for point in points)] for r in rows]
        text += f"\n{MEASURE} by {what}:\n\n" + table(["collection", *points], lines)
    return text


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Arguments that the quality benchmarks share."""
    parser = argparse.ArgumentParser(description=description)
    add_data(parser, required=True)
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser, required=True)
    parser.add_argument("--precision", default="exact", help="of the bi-encoder")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[name for name, *_ in COLLECTIONS])
    parser.add_argument("--queries", type=int, default=300, help="maximum for each collection")
    parser.add_argument("--model", default="builtin:reranker")
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--weight", type=float, choices=WEIGHTS, help="default: the model's")
    plain = vars(parser.parse_args())
    out, only, weight = (plain.pop(name) for name in ("out", "only", "weight"))
    settings = Settings(**plain)
    splits = [(name, split) for name, split, *_ in COLLECTIONS if name in only]
    need_collections(parser, settings.data, splits)
    if weight is None:
        weight = resolve_cross_encoder(settings.model).recommended_first_stage_weight
    settings.work.mkdir(parents=True, exist_ok=True)
    measured: dict[str, dict[str, Any]] = {}
    for name, split, _, _ in COLLECTIONS:
        if name not in only:
            continue
        measured[name] = measure(name, split, settings)
        rows = summary({n: chosen(part, weight) for n, part in measured.items()})
        result = {
            **machine(),
            "measure": MEASURE,
            "first_stage_weight": weight,
            "rows": rows,
            "collections": measured,
        }
        (out / "quality.json").write_text(as_json(result))
        (out / "quality.md").write_text(as_markdown(rows))
        print(as_markdown(rows), flush=True)


if __name__ == "__main__":
    main()
