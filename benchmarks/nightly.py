"""Cost of an incremental run as a share of the full run: 0 %, 1 % and 10 % of documents replaced.

    python -m benchmarks.nightly --data DATA --work WORK --out benchmarks/results

Corpus: `medquad` and `liveqa-med` together; queries: a fixed sample of both. Before each
incremental run a share of the documents is replaced: half of them by another text under the same id
(halves of two documents joined, like an edit), half by a document under a new id. Each run is
`nightrank nightly` in its own process on Ray, so the figures include the start of processes and
models. The run without any change shows how much that is.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import beir
from benchmarks.arguments import add_data, add_out, need_collections
from benchmarks.reporting import machine, table

SHARES = (0.0, 0.01, 0.10)
COLLECTIONS = (("medquad", "dev"), ("liveqa-med", "test"))


def write(path: Path, content: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")


def inputs(data: Path, work: Path, queries: int) -> list[dict[str, Any]]:
    """Writes queries and judgements; returns the documents."""
    documents, query_rows, judged = [], [], ["query-id\tcorpus-id\tscore"]
    for name, split in COLLECTIONS:
        lines = beir.qrels(data / name, split).read_text().splitlines()[1:]
        wanted = {line.split("\t")[0] for line in lines}
        judged_queries = [q for q in beir.rows(data / name, "queries") if q["_id"] in wanted]
        drawn = random.Random(0).sample(
            judged_queries, min(len(judged_queries), queries // len(COLLECTIONS))
        )
        ids = {query["_id"] for query in drawn}
        query_rows += [
            {"_id": f"{name}/{q['_id']}", "text": q["text"], "vertical": name} for q in drawn
        ]
        for line in lines:
            query, document, grade = line.split("\t")
            if query in ids:
                judged.append(f"{name}/{query}\t{name}/{document}\t{grade}")
        for document in beir.rows(data / name, "corpus"):
            title = document.get("title", "")
            plain = {"_id": f"{name}/{document['_id']}", "title": title, "text": document["text"]}
            documents.append(plain)
    write(work / "queries.jsonl", query_rows)
    (work / "qrels.tsv").write_text("\n".join(judged) + "\n")
    return documents


def replace_share(documents: list[dict[str, Any]], share: float, rng: random.Random) -> None:
    """Replaces a share of the documents in place, half of them under new ids."""
    chosen = rng.sample(range(len(documents)), round(share * len(documents)))
    for count, place in enumerate(chosen):
        other = documents[rng.randrange(len(documents))]["text"]
        old = documents[place]
        name = f"{old['_id']}+{rng.randrange(1 << 30):x}" if count % 2 else old["_id"]
        text = f"{old['text'][: len(old['text']) // 2]} {other[: len(other) // 2]}"
        documents[place] = {**old, "_id": name, "text": text}


def config(work: Path, root: Path, precision: str) -> Path:
    plain = {
        "name": "nightly",
        "root": str(root),
        "corpus": {"path": str(work / "corpus.jsonl")},
        "queries": {"path": str(work / "queries.jsonl")},
        "encoder": {"precision": precision},
        "evaluate": {"qrels": str(work / "qrels.tsv")},
        # Judged documents are replaced too, so a decrease of the measure is expected.
        "gate": {"max_measure_drop": 1.0},
    }
    path = work / f"{root.name}.yaml"
    path.write_text(json.dumps(plain))
    return path


def run(path: Path, verb: str = "nightly") -> tuple[dict[str, Any], float]:
    """One run in its own process: its closing line, and the wall seconds of the process."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "nightrank", verb, str(path), "--json"],
        check=True,
        stdout=subprocess.PIPE,
    )
    return json.loads(done.stdout), time.monotonic() - started


def size(root: Path) -> int:
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def as_markdown(result: dict[str, Any]) -> str:
    """Cost of each run as a share of the full run, and its seconds by stage."""
    titles = ["", "embedded", "pairs scored", "bytes written", "wall", "wall without start-up"]
    runs, full = result["runs"], result["runs"][0]
    fixed = next(one["wall"] for one in runs if one["name"] == "0 %")
    lines = []
    for one in runs:
        cells = [one["name"]]
        for key, scale, form in (
            ("embedded", 1, "{:,.0f}"),
            ("scored", 1, "{:,.0f}"),
            ("bytes", 1e6, "{:.1f} MB"),
            ("wall", 1, "{:.0f} s"),
        ):
            cells.append(f"{form.format(one[key] / scale)} ({one[key] / full[key]:.1%})")
        net, whole = max(0.0, one["wall"] - fixed), full["wall"] - fixed
        lines.append([*cells, f"{net:.0f} s ({net / whole:.1%})"])
    stages = sorted({name for one in runs for name in one["seconds"]})
    rows = [[name, *(f"{one['seconds'].get(name, 0):.1f}" for one in runs)] for name in stages]
    by_stage = table(["stage", *(one["name"] for one in runs)], rows)
    return table(titles, lines) + "\nSeconds by stage:\n\n" + by_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser, required=True)
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser, required=True)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--precision", default="bf16", help="of the bi-encoder")
    args = parser.parse_args()
    need_collections(parser, args.data, COLLECTIONS)
    work, root = args.work, args.work / "lake"
    if root.exists():
        raise SystemExit(f"{root} exists, but the first run has to be a full run: remove it")
    work.mkdir(parents=True, exist_ok=True)
    documents, rng = inputs(args.data, work, args.queries), random.Random(1)
    path = config(work, root, args.precision)
    runs: list[dict[str, Any]] = []
    for name, share in (("full", 0.0), *((f"{s:.0%}".replace("%", " %"), s) for s in SHARES)):
        if share or not runs:
            replace_share(documents, share, rng)
            write(work / "corpus.jsonl", documents)
        before = size(root) if root.exists() else 0
        summary, wall = run(path)
        runs.append(
            {
                "name": name,
                "embedded": summary["documents_embedded"],
                "needed": summary["pairs_needed"],
                "scored": summary["pairs_scored"],
                "bytes": size(root) - before,
                "wall": round(wall, 1),
                "seconds": summary["seconds"],
                "generation": summary["generation"],
                "published": summary["published"],
                "measures": summary.get("measures"),
            }
        )
        print(json.dumps({k: v for k, v in runs[-1].items() if k != "seconds"}), flush=True)
    result = {**machine(), "documents": len(documents), "queries": args.queries, "runs": runs}
    (args.out / "nightly.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "nightly.md").write_text(as_markdown(result))
    print(as_markdown(result))


if __name__ == "__main__":
    main()
