"""How a run grows with documents, queries and depth, and the cost of Ray compared with one process.

    python -m benchmarks.growth [--data DATA] --work WORK --out benchmarks/results

Full runs with the built-in models in bf16, each in its own process: a small run on Ray and in one
process, then runs with four times the documents, the queries and the depth. Texts as in
`benchmarks.scoring`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.arguments import add_data, add_out
from benchmarks.cold_runs import cold_run, write
from benchmarks.reporting import machine, table
from benchmarks.texts import mixed

DOCUMENTS, QUERIES, DEPTH = 600, 20, 25
RUNS = {
    "small": (1, 1, 1, "ray"),
    "small, one process": (1, 1, 1, "serial"),
    "documents x 4": (4, 1, 1, "ray"),
    "queries x 4": (1, 4, 1, "ray"),
    "depth x 4": (1, 1, 4, "ray"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_data(parser)
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    texts = mixed(args.data, 4 * QUERIES, random.Random(0))
    random.Random(1).shuffle(texts.documents)
    runs: dict[str, dict[str, Any]] = {}
    for number, (name, (documents, queries, depth, executor)) in enumerate(RUNS.items()):
        paths = {}
        for kind, items, count in (
            ("corpus", texts.documents, documents * DOCUMENTS),
            ("queries", texts.queries, queries * QUERIES),
        ):
            paths[kind] = args.work / f"{kind}-{number}.jsonl"
            rows = [{"_id": str(i), "text": text} for i, text in enumerate(items[:count])]
            write(paths[kind], rows)
        sections = {
            **{kind: {"path": str(path)} for kind, path in paths.items()},
            "encoder": {"precision": "auto"},
            "retrieve": {"depth": depth * DEPTH},
            "rerank": {"depth": depth * DEPTH},
            "cluster": {"executor": executor},
        }
        shutil.rmtree(args.work / "lake", ignore_errors=True)
        runs[name] = cold_run(args.work, "growth", sections)
        print(json.dumps({name: runs[name]["wall"]}), flush=True)
    lines = [
        [
            name,
            f"{run['documents']:,}",
            f"{run['pairs']:,}",
            f"{run['wall']:.1f} s",
            f"{run['model']['embed']:.1f} s",
            f"{run['model']['rerank']:.1f} s",
            f"{run['wall'] - run['model_seconds']:.1f} s",
        ]
        for name, run in runs.items()
    ]
    titles = ["", "documents", "pairs", "wall", "encoding", "scoring", "all else"]
    text = table(titles, lines)
    print(text)
    if args.out:
        (args.out / "growth.json").write_text(
            json.dumps({**machine(), "runs": runs}, indent=1) + "\n"
        )
        (args.out / "growth.md").write_text(text)


if __name__ == "__main__":
    main()
