"""The whole pipeline over the sample, on toy models, in a temporary lake.

It says what no formula knows: bytes and seconds of a row in every file of every stage, as this
version's own writers make them on the user's own texts. Toy models replace all others, whose
vectors, tokens and seconds are measured apart (`calibration.py`).
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from nightrank.config.schema import PipelineConfig
from nightrank.flow import offline_rerank
from nightrank.flow.run import Run
from nightrank.generations.planning import make_plan
from nightrank.models.registry import TOY_BI_ENCODER, TOY_CROSS_ENCODER
from nightrank.runtime.executor import SerialExecutor
from nightrank.runtime.progress import Progress
from nightrank.storage.dataset import FileRef, Manifest
from nightrank.storage.parquet import Batches, write_parquet
from nightrank.storage.scatter import Scatter, write_scatter
from nightrank.storage.store import Store

# Toy scores take 20 microseconds a pair: half a second. Lists are searched as deep as configured.
MOST_PAIRS, MOST_QUERIES, MOST_ROWS = 20_000, 1000, 100_000
WARM_DOCUMENTS, WARM_QUERIES = 64, 16


@dataclass(frozen=True)
class File:
    """What one file of every unit of a stage holds.

    Attributes:
        rows: rows in all units.
        size: bytes in all units.
        fixed: bytes of a file without rows, or of a scatter file's key with none.
        keys: keys of all scatter files; 0 of other files.
        row_bytes: bytes of a row beyond the fixed ones.
        columns: names of the columns; none where no file has a row.
        scores: bytes of a row that are a model's scores, where columns can be distinguished.
    """

    rows: int
    size: int
    fixed: int
    keys: int
    row_bytes: float
    columns: tuple[str, ...] = ()
    scores: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One stage of the miniature.

    Attributes:
        units: number of units.
        seconds: CPU time of all units.
        work: rows that it worked through.
        files: by name.
        stats: sums of the records' numbers.
    """

    units: int
    seconds: float
    work: int
    files: dict[str, File]
    stats: dict[str, float]


@dataclass(frozen=True)
class Miniature:
    """The stages by the labels that a run reports, and the documents and queries of its input."""

    stages: dict[str, Measured]
    documents: int
    queries: int

    @property
    def overhead(self) -> float:
        """CPU time of the shortest unit: opening, writing and committing next to nothing."""
        each = (stage.seconds / stage.units for stage in self.stages.values() if stage.units)
        return min(each, default=0.0)

    def seconds(self, stage: str, rows: int) -> float:
        """What one of so many rows cost a stage, on one core, beyond its units."""
        measured = self.stages.get(stage)
        if measured is None or not rows:
            return 0.0
        return max(0.0, measured.seconds - measured.units * self.overhead) / rows

    def rows(self, stage: str, file: str) -> int:
        """Rows of a file of a stage; 0 where there is none."""
        measured = self.stages.get(stage)
        return measured.files[file].rows if measured and file in measured.files else 0


class _Watch(Progress):
    """Keeps manifests and CPU seconds as stages finish; prints nothing."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.finished: list[tuple[Manifest, float]] = []
        self._started = 0.0

    def start(self, stage: str, total: int, done: int) -> None:
        """See `Progress.start`."""
        super().start(stage, total, done)
        self._started = time.process_time()

    def finish(self, stage: str, manifest: Manifest, seconds: float) -> None:
        """See `Progress.finish`."""
        super().finish(stage, manifest, seconds)
        self.finished.append((manifest, time.process_time() - self._started))


def run_miniature(
    config: PipelineConfig, documents: pa.Table, queries: pa.Table, dimension: int
) -> Miniature:
    """Runs the sample through every stage.

    Args:
        config: the experiment's.
        documents: accepted rows of the corpus.
        queries: accepted rows of the queries.
        dimension: of the encoder's vectors.
    """
    most = max(WARM_QUERIES, MOST_ROWS // config.retrieve.depth)
    taken = min(queries.num_rows, MOST_QUERIES, most)
    at = np.linspace(0, queries.num_rows - 1, taken).round().astype(np.int64)
    queries = queries.take(pa.array(at))
    # Imports and first calls are no part of what a row costs.
    few = documents.slice(0, WARM_DOCUMENTS), queries.slice(0, WARM_QUERIES)
    _run(config, *few, dimension)
    return _run(config, documents, queries, dimension)


def _run(
    config: PipelineConfig, documents: pa.Table, queries: pa.Table, dimension: int
) -> Miniature:
    with tempfile.TemporaryDirectory(prefix="nightrank-plan-") as folder:
        paths = {}
        for name, table in (("corpus", documents), ("queries", queries)):
            paths[name] = os.path.join(folder, f"{name}.parquet")
            hashes = [n for n in ("content_hash", "query_hash", "row") if n in table.column_names]
            pq.write_table(table.drop_columns(hashes), paths[name])
        head = max(1, MOST_PAIRS // max(1, queries.num_rows))
        small = _small(config, folder, paths, dimension, head)
        store = Store(os.path.join(folder, "lake", "miniature"))
        watch = _Watch()
        plan = make_plan(small, store)
        job = Run(plan, store, SerialExecutor(1), watch)
        offline_rerank.run(job)
        root = Path(folder, "lake", "miniature")
        stages = {
            manifest.stage: _measured(manifest, spent, root) for manifest, spent in watch.finished
        }
    return Miniature(stages, documents.num_rows, queries.num_rows)


def _small(
    config: PipelineConfig, folder: str, paths: dict[str, str], dimension: int, head: int
) -> PipelineConfig:
    """The config with toy models, the sample as its input, a lake of its own, no deeper steps."""
    plain = config.model_dump(mode="json")
    for name, path in paths.items():
        plain[name] |= {"path": path, "format": "parquet", "columns": {}, "reject_budget": 1.0}
    plain["corpus"] |= {"duplicates": "last", "partitions": []}
    plain["queries"] |= {"only_judged": False, "on_dup_query": "reject"}
    plain |= {"name": "miniature", "root": os.path.join(folder, "lake"), "storage_options": {}}
    plain["encoder"] = {"model": TOY_BI_ENCODER, "dimension": dimension}
    limit = config.encoder.max_length_tokens
    if config.encoder.model == TOY_BI_ENCODER and limit:
        plain["encoder"]["max_length_tokens"] = limit
    plain["index"] = {"factory": "Flat"}
    for step in plain["rerank"]:
        toy = step["model"] == TOY_CROSS_ENCODER
        step |= {"model": TOY_CROSS_ENCODER, "revision": None, "precision": "auto"}
        step["depth"] = min(step["depth"], head)
        step |= {"max_length_tokens": step["max_length_tokens"] if toy else None}
    for name in ("evaluate", "layout", "nightly", "budget", "gate"):
        plain.pop(name)
    plain["cluster"] = {"executor": "serial"}
    return PipelineConfig.model_validate(plain)


def _measured(manifest: Manifest, spent: float, root: Path) -> Measured:
    stats: dict[str, float] = {}
    for shard in manifest.shards:
        for name, value in shard.stats.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                stats[name] = stats.get(name, 0) + value
    names = list(manifest.shards[0].files) if manifest.shards else []
    files = {name: _file(manifest.files(name), root) for name in names}
    work = int(stats.get("rate_rows", 0))
    return Measured(len(manifest.shards), spent, work, files, stats)


def _file(refs: list[FileRef], root: Path) -> File:
    rows, size = sum(ref.rows for ref in refs), sum(ref.size for ref in refs)
    keys, fixed = sum(len(ref.ranges) for ref in refs), 0
    first = root / refs[0].key
    if first.suffix == ".scatter":
        filled = next((root / ref.key for ref in refs if ref.ranges), None)
        if filled is None:
            return File(rows, size, 0, 0, 0.0)
        schema = _stream_schema(filled)
        fixed = scatter_bytes(schema)
        each = max(0.0, size - fixed * keys) / max(1, rows)
        return File(rows, size, fixed, keys, each, tuple(schema.names))
    columns: tuple[str, ...] = ()
    scores = 0.0
    if first.suffix == ".parquet":
        schema = pq.read_schema(first)
        fixed, columns = parquet_bytes(schema.empty_table()), tuple(schema.names)
        scores = sum(_score_bytes(root / ref.key) for ref in refs) / max(1, rows)
    each = max(0.0, size - fixed * len(refs)) / max(1, rows)
    return File(rows, size, fixed, 0, each, columns, scores)


def is_score(column: str) -> bool:
    """Whether a column (or a leaf of one) holds what a model gave; BM25's are no toy's."""
    name = column.rpartition(".")[2]
    return name.endswith("score") and name != "first_stage_bm25_score"


def _score_bytes(path: Path) -> int:
    """Compressed bytes of all score columns of a file."""
    footer = pq.ParquetFile(path).metadata
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.total_compressed_size for c in columns if is_score(c.path_in_schema))


def _stream_schema(path: Path) -> pa.Schema:
    with path.open("rb") as file:
        return pyarrow.ipc.open_stream(file).schema


def parquet_bytes(table: pa.Table) -> int:
    """Bytes of a table as the lake writes it."""
    sink = io.BytesIO()
    write_parquet(Batches(table.schema, [table]), sink)
    return sink.tell()


def scatter_bytes(schema: pa.Schema) -> int:
    """Bytes of one key of a scatter file, nearly without rows."""
    row = pa.table([pa.nulls(1, field.type) for field in schema], schema=schema)
    sink = io.BytesIO()
    write_scatter(Scatter(row, np.zeros(1, np.int64)), sink)
    return sink.tell()
