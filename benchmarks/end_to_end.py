"""`nightrank run` from a cold lake to Parquet, beside the script that one would write instead.

    python -m benchmarks.end_to_end --data DATA/scifact --work WORK --out benchmarks/results

SciFact at depth 100 on Ray, timed from the start of the process. On 100 queries
`straightforward.py` and `nightrank run` run once each, with the same models and the same order of
work. Reported are the speed-up of the whole run, that of the models alone (encoding and scoring in
both), and nDCG@10 of both. Then `nightrank run` ranks all queries, and with `--large` five times as
many (other claims, and titles): reported is the share of the wall time that is not model time.

Model time is the time that workers spend in encoders and rerankers, divided by the number of
workers. The time of a worker that idles at the end of a stage counts as overhead.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import beir
from benchmarks.arguments import add_collection, add_out
from benchmarks.cold_runs import cold_run, write
from benchmarks.reporting import machine, table

os.environ.setdefault("HF_HUB_OFFLINE", "1")
FEW = 100


def inputs(data: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Writes the corpus and returns the queries of each run, judged queries first."""
    header, *lines = beir.qrels(data, "test").read_text().splitlines()
    judged = sorted({line.split("\t")[0] for line in lines})
    (work / "qrels.tsv").write_text("\n".join([header, *lines]) + "\n")
    corpus = [row for row in beir.rows(data, "corpus") if row["text"].strip()]
    plain = [{"_id": r["_id"], "title": r.get("title", ""), "text": r["text"]} for r in corpus]
    write(work / "corpus.jsonl", plain)
    texts = {row["_id"]: row["text"] for row in beir.rows(data, "queries")}
    asked = [{"_id": name, "text": texts.pop(name)} for name in judged]
    others = [{"_id": name, "text": text} for name, text in sorted(texts.items())]
    titles = [{"_id": f"title-{r['_id']}", "text": r["title"]} for r in plain if r["title"]]
    every = [*asked, *others, *titles]
    return {"few": asked[:FEW], "all": asked, "large": every[: 5 * len(asked)]}


def nightrank(work: Path, name: str, queries: list[dict[str, Any]]) -> dict[str, Any]:
    """A run from a cold lake over the corpus: see `cold_run`."""
    write(work / f"{name}.jsonl", queries)
    return cold_run(
        work,
        name,
        {
            "corpus": {"path": str(work / "corpus.jsonl")},
            "queries": {"path": str(work / f"{name}.jsonl")},
            # As in the script: vectors alone, and the order of the reranker's scores.
            "retrieve": {"depth": 100, "bm25": {"weight": 0}},
            "rerank": {"depth": 100, "first_stage_weight": 0},
            "evaluate": {"qrels": str(work / "qrels.tsv")},
        },
    )


def straightforward(work: Path, queries: list[dict[str, Any]]) -> dict[str, Any]:
    from nightrank.training.exporting import export_model

    folder = work / "model"
    if not folder.exists():
        export_model("builtin:reranker", folder)
    write(work / "few.jsonl", queries)
    out = work / "straightforward.parquet"
    script = Path(__file__).with_name("straightforward.py")
    files = [work / "corpus.jsonl", work / "few.jsonl", folder, out]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(script), *map(str, files)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall = time.perf_counter() - begin
    seconds = json.loads(done.stdout.splitlines()[-1])
    return {
        "wall": wall,
        "model_seconds": seconds["encoding"] + seconds["scoring"],
        "seconds": seconds,
        "ndcg": ndcg(out, work / "qrels.tsv"),
    }


def ndcg(ranked: Path, qrels: Path) -> float:
    """nDCG@10 of a script's Parquet, by the measures that the runs use."""
    import ir_measures
    import pandas as pd

    frame = pd.read_parquet(ranked)
    run = [
        ir_measures.ScoredDoc(row.query_id, row.doc_id, float(row.score))
        for row in frame.itertuples()
    ]
    asked = set(frame["query_id"])
    lines = [line.split("\t") for line in qrels.read_text().splitlines()[1:]]
    judged = [ir_measures.Qrel(q, d, int(grade)) for q, d, grade in lines if q in asked]
    return float(
        ir_measures.calc_aggregate([ir_measures.nDCG @ 10], judged, run)[ir_measures.nDCG @ 10]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_collection(parser, "test")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--large", action="store_true", help="also run five times as many queries")
    add_out(parser)
    args = parser.parse_args()
    if (args.work / "lake").exists():
        raise SystemExit(f"{args.work / 'lake'} exists, but the run needs an empty lake: remove it")
    args.work.mkdir(parents=True, exist_ok=True)
    queries = inputs(args.data, args.work)
    names = ["few", "all", *(["large"] if args.large else [])]
    runs = {}
    for name in names:
        runs[name] = nightrank(args.work, name, queries[name])
        print(json.dumps({name: runs[name]}), file=sys.stderr, flush=True)
    script = straightforward(args.work, queries["few"])
    print(json.dumps(script), file=sys.stderr, flush=True)
    few = runs["few"]
    whole, engine = script["wall"] / few["wall"], script["model_seconds"] / few["model_seconds"]
    result = {
        **machine(),
        "runs": runs,
        "script": script,
        "speed_up": {"whole": whole, "models": engine, "kept": whole / engine},
    }
    lines = [
        [
            f"nightrank, {run['queries']:,} queries",
            f"{run['pairs']:,}",
            f"{run['wall']:.0f} s",
            f"{run['model']['embed']:.0f} s",
            f"{run['model']['rerank']:.0f} s",
            f"{run['overhead']:.1%}",
            f"{run['ndcg']:.4f}",
        ]
        for run in runs.values()
    ]
    seconds = script["seconds"]
    apart = 1 - script["model_seconds"] / script["wall"]
    lines.append(
        [
            f"straightforward.py, {FEW} queries",
            f"{few['pairs']:,}",
            f"{script['wall']:.0f} s",
            f"{seconds['encoding']:.0f} s",
            f"{seconds['scoring']:.0f} s",
            f"{apart:.1%}",
            f"{script['ndcg']:.4f}",
        ]
    )
    titles = ["", "pairs", "wall", "encoding", "scoring", "all else", "nDCG@10"]
    text = table(titles, lines) + (
        f"\nOn {FEW} queries the whole is {whole:.2f} times as fast, the models alone"
        f" {engine:.2f} times: {whole / engine:.0%} of that is kept.\n"
    )
    print(text)
    if args.out:
        (args.out / "end_to_end.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "end_to_end.md").write_text(text)


if __name__ == "__main__":
    main()
