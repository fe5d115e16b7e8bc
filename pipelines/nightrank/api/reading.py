"""What is published and where: the files of a table, for tools that read Parquet themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nightrank.api.config import Config, load_config
from nightrank.config.overrides import Overrides
from nightrank.generations.evaluations import evaluation_file
from nightrank.generations.results import file_list, generation_of, open_lake

# Beside the published tables: every measure of every judged query, as `evaluate` writes it.
EVALUATION = "evaluation"


@dataclass(frozen=True)
class TableSize:
    """How many files and rows a table has."""

    files: int
    rows: int


@dataclass(frozen=True)
class Published:
    """The files of one table of a generation.

    Attributes:
        url: of the lake.
        generation: its number.
        table: name of the table.
        files: Parquet files of the table, paths or s3:// urls.
        sizes: of every table of the generation.
        counts: documents, queries and rows, as the log has them.
    """

    url: str
    generation: int
    table: str
    files: tuple[str, ...]
    sizes: Mapping[str, TableSize]
    counts: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return self.sizes[self.table].rows

    def duckdb_view(self) -> str:
        """A statement that creates a view of the table in DuckDB."""
        quoted = ",\n  ".join("'" + path.replace("'", "''") + "'" for path in self.files)
        select = f"SELECT * FROM read_parquet([\n  {quoted}\n]);"
        return f"CREATE OR REPLACE VIEW {self.table} AS {select}"


def published(
    config: Config,
    overrides: Overrides = (),
    *,
    table: str = "ranked",
    generation: int | str | None = None,
) -> Published:
    """The files of a published table.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["root=s3://bucket/lakes"]` or `{"root": "s3://bucket/lakes"}`.
        table: `ranked`, `queries`, `rejects`, `changes` or `evaluation`.
        generation: a number, or a day as 2026-01-31; None takes the current generation.

    Raises:
        NightrankError: E_EMPTY if nothing is published, or the generation was not evaluated;
            E_USAGE for an unknown table.
    """
    loaded = load_config(config, overrides)
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    sizes = {
        name: TableSize(len(files), sum(file["rows"] for file in files))
        for name, files in entry.body["files"].items()
    }
    if table == EVALUATION:
        file = evaluation_file(store, entry, loaded)
        paths, sizes[EVALUATION] = [store.path(file.key)], TableSize(1, file.rows)
    else:
        paths = file_list(store, entry, table)
    counts = entry.body["counts"]
    return Published(store.url, entry.generation, table, tuple(paths), sizes, counts)
