"""A large run on two cores: all real stages, with synthetic vectors and toy scores.

    chrt --idle 0 nice -n 19 python -m benchmarks.scale --work WORK --out benchmarks/results

1,000,000 documents x 100,000 queries at depth 100, and a quarter of each to show how cost grows.
Texts are random words, for BM25 and the toy reranker. The vectors of the embed stage are clustered
(as in `benchmarks.retrieval`) and as wide as MiniLM's, since those of the toy encoder are sparse.
Everything else is `nightrank run`. The same command resumes, and its seconds are added.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.arguments import add_out
from benchmarks.memory import Watch
from benchmarks.reporting import let_workers_import, machine, table
from nightrank.api.executors import open_executor
from nightrank.config.schema import PipelineConfig
from nightrank.datasets.vectors import to_table
from nightrank.flow import offline_rerank
from nightrank.flow.run import Run
from nightrank.forecast.limits import WORKER_BYTES
from nightrank.generations.planning import make_plan
from nightrank.generations.results import open_lake
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.stages import embed
from nightrank.storage import schemas
from nightrank.storage.dataset import Dataset, Manifest, Payload
from nightrank.storage.reader import Reader

DOCUMENTS, QUERIES, DEPTH, DIMENSION = 1_000_000, 100_000, 100, 384
SIZES = {"quarter": 4, "whole": 1}
CENTRES, VOCABULARY, DOCUMENT_WORDS, QUERY_WORDS = 10_000, 50_000, 10, 4
# The fastest at recall 0.985 on such vectors in `benchmarks/results/retrieval-synthetic.md`.
INDEX = {
    "factory": "IVF2048,PQ192x4fs,RFlat",
    "search_parameters": "nprobe=384,k_factor_rf=4",
    "train_rows": 131_072,
    "shard_bytes": 512 << 20,
}
MEMORY_BYTES = 3 << 29
MERGE_BYTES, MOST_PARTIALS = 1 << 30, 10


class Clustered:
    """A worker in place of the encoder: unit vectors around common centres, seeded by the shard."""

    def __init__(self, settings: embed.Settings, threads: int) -> None:
        centres = np.random.default_rng(0)
        self._centres = centres.standard_normal((CENTRES, DIMENSION), dtype=np.float32)
        self._kind = settings.kind

    def __call__(self, task: Task, read: Reader) -> Payload:
        """A vector for every row of tokens."""
        count = task.args.tokens.rows
        draw = np.random.default_rng(zlib.crc32(f"{self._kind} {task.shard}".encode()))
        drawn = draw.standard_normal((count, DIMENSION), dtype=np.float32)
        drawn += self._centres[draw.integers(0, CENTRES, count)]
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        stats = {"rate_rows": count, "rate_unit": "texts", "encoded": count, "rejected": 0}
        vectors = to_table(np.arange(count, dtype=np.int32), drawn)
        rejects = schemas.ROW_REJECTS.empty_table()
        return Payload({"vectors": vectors, "rejects": rejects}, stats)


class ScaleRun(Run):
    """A run with synthetic vectors."""

    def execute(self, stage: Stage) -> Manifest:
        if stage.kind == "embed":
            stage = replace(stage, worker=WorkerSpec(Clustered, stage.worker.settings))
        return super().execute(stage)


def write_inputs(folder: Path, documents: int, queries: int) -> None:
    """Writes documents of random words, and queries that are words of one document each."""
    draw = np.random.default_rng(1)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    spelt = letters[draw.integers(0, len(letters), (VOCABULARY, 7))]
    words = pa.array(["".join(word) for word in spelt])
    texts = draw.integers(0, VOCABULARY, (documents, DOCUMENT_WORDS), dtype=np.int32)
    asked = texts[draw.integers(0, documents, queries), :QUERY_WORDS]
    for name, rows, letter in (("corpus", texts, "d"), ("queries", asked, "q")):
        lists = pa.FixedSizeListArray.from_arrays(words.take(pa.array(rows.ravel())), rows.shape[1])
        joined = pc.binary_join(lists.cast(pa.list_(pa.string())), " ")
        ids = pa.array([f"{letter}{i:07d}" for i in range(len(rows))])
        pq.write_table(pa.table({"_id": ids, "text": joined}), folder / f"{name}.parquet")


def run(work: Path, documents: int, queries: int) -> dict[str, Any]:
    """Runs or resumes one size; see `measured`."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "queries.parquet").exists():
        # In its own process: its memory would count as the driver's.
        maker = multiprocessing.get_context("spawn").Process(
            target=write_inputs, args=(work, documents, queries)
        )
        maker.start()
        maker.join()
        if maker.exitcode:
            raise SystemExit(f"cannot write inputs into {work}: exit code {maker.exitcode}")
    config = PipelineConfig.model_validate(
        {
            "name": "scale",
            "root": str(work / "lake"),
            "corpus": {"path": str(work / "corpus.parquet")},
            "queries": {"path": str(work / "queries.parquet")},
            "encoder": {"model": "toy:bag-of-words", "dimension": DIMENSION},
            "index": INDEX,
            "retrieve": {"depth": DEPTH},
            "rerank": {"model": "toy:overlap", "depth": DEPTH},
            "search": {"memory_bytes": MEMORY_BYTES},
        }
    )
    let_workers_import()
    store = open_lake(config.root, config.name, {})
    watch = Watch(work / "measured.json")
    with open_executor(config) as executor:
        job = ScaleRun(make_plan(config, store), store, executor, watch)
        entry = job.plan.published or offline_rerank.run(job)
    watch.close()
    assert entry is not None
    return {"documents": documents, "queries": queries, **measured(work, watch.stages)}


def measured(work: Path, stages: dict[str, Any]) -> dict[str, Any]:
    """Sizes of what was written, and the memory of the processes.

    Returns:
        `stages` with `seconds`, `unit_seconds`, `units`, `files`, `bytes`, memory; `files` (bytes
        of some by name), `objects` (data files, records, manifests), `driver_bytes`.
    """
    store, sizes = open_lake(str(work / "lake"), "scale", {}), dict[str, int]()
    for path in (work / "lake").rglob("manifest.json"):
        folder = str(path.parent.relative_to(work / "lake" / "scale"))
        manifest = Dataset(store, folder).manifest()
        assert manifest is not None
        files = [(name, ref) for shard in manifest.shards for name, ref in shard.files.items()]
        for name, ref in files:
            sizes[f"{manifest.stage}/{name}"] = sizes.get(f"{manifest.stage}/{name}", 0) + ref.size
        stages[manifest.stage] |= {
            "units": len(manifest.shards),
            "unit_seconds": sum(shard.seconds for shard in manifest.shards),
            "files": len(files),
            "bytes": manifest.bytes,
        }
    objects = [path for path in (work / "lake").rglob("*") if path.is_file()]
    return {
        "stages": stages,
        "files": sizes,
        "objects": len(objects),
        "bytes": sum(path.stat().st_size for path in objects),
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "driver_bytes": max(stage["driver"].get("resident", 0) for stage in stages.values()),
    }


def checks(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The limits, each with the measured and the allowed bytes."""
    whole, quarter = runs["whole"], runs["quarter"]
    window = MEMORY_BYTES + WORKER_BYTES

    def worker(stage: str) -> int:
        return int(whole["stages"][stage]["worker"].get("own", 0))

    limits = {
        "driver: whole run, at most 1.5 times the quarter's": (
            whole["driver_bytes"],
            1.5 * quarter["driver_bytes"],
        ),
        "a search worker, its group and window": (worker("search"), window),
        "a merge": (worker("merge"), MERGE_BYTES),
        "building an index shard: vectors and index twice, and a window": (
            worker("build index"),
            2 * (4 * DIMENSION * whole["documents"] // whole["stages"]["build index"]["units"])
            + 2 * whole["files"]["build index/index"] // whole["stages"]["build index"]["units"]
            + WORKER_BYTES,
        ),
        "any other worker": (max(worker(n) for n in whole["stages"] if n != "build index"), window),
        "partial lists, at most 10 times the candidates": (
            whole["files"]["search/candidates"],
            MOST_PARTIALS * whole["files"]["merge/candidates"],
        ),
    }
    return {
        name: {"measured": value, "allowed": allowed, "holds": value <= allowed}
        for name, (value, allowed) in limits.items()
    }


def as_markdown(result: dict[str, Any]) -> str:
    runs = result["runs"]
    whole, quarter = runs["whole"], runs["quarter"]
    text = f"{whole['documents']:,} documents x {whole['queries']:,} queries, depth {DEPTH}, "
    text += f"{DIMENSION} dimensions, `{INDEX['factory']}` ({INDEX['search_parameters']}), BM25; "
    text += f"{result['cpus']} CPUs shared with other work, at idle priority\n\n"
    lines = []
    for name, stage in whole["stages"].items():
        before = quarter["stages"][name]
        cells = [name, f"{stage['units']:,}", f"{stage['seconds']:,.0f} s"]
        cells += [f"{stage['seconds'] / max(0.1, before['seconds']):.1f}"]
        cells += [f"{stage['files'] + stage['units']:,}", f"{stage['bytes'] / 1e6:,.1f}"]
        cells += [f"{stage['bytes'] / max(1, before['bytes']):.1f}"]
        for kind in ("driver", "worker"):
            cells.append(f"{stage[kind].get('own', 0) / 1e6:,.0f}")
        lines.append(cells)
    titles = ["stage", "units", "wall", "times the quarter", "objects", "MB", "times the quarter"]
    text += table([*titles, "driver, MB", "largest worker, MB"], lines)
    text += f"\n{whole['seconds'] / 60:,.0f} minutes in all (a quarter of documents and queries: "
    text += f"{quarter['seconds'] / 60:,.0f}), {whole['bytes'] / 1e9:,.2f} GB in "
    text += f"{whole['objects']:,} objects ({quarter['bytes'] / 1e9:,.2f} GB in "
    text += f"{quarter['objects']:,}).\n\n"
    rows = [
        [name, f"{c['measured'] / 1e6:,.0f} MB", f"{c['allowed'] / 1e6:,.0f} MB", str(c["holds"])]
        for name, c in result["checks"].items()
    ]
    return text + table(["limit", "measured", "allowed", "holds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    add_out(parser)
    parser.add_argument("--documents", type=int, default=DOCUMENTS)
    parser.add_argument("--queries", type=int, default=QUERIES)
    args = parser.parse_args()
    runs = {}
    for name, share in SIZES.items():
        folder = args.work / name
        runs[name] = run(folder, args.documents // share, args.queries // share)
    result = {**machine(), "runs": runs, "checks": checks(runs)}
    print(as_markdown(result))
    if args.out:
        (args.out / "scale.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "scale.md").write_text(as_markdown(result))


if __name__ == "__main__":
    main()
