"""Where the published results are: `nightrank results CONFIG`.

nightrank results my.yaml --files                # one path a line
nightrank results my.yaml --duckdb | duckdb      # a CREATE VIEW statement
nightrank results my.yaml --table evaluation     # every measure of every judged query
"""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets

Files = Annotated[bool, typer.Option("--files", help="Only the paths, one a line.")]
DuckDB = Annotated[bool, typer.Option("--duckdb", help="A CREATE VIEW statement over the files.")]
Table = Annotated[
    str, typer.Option("--table", help="ranked, queries, rejects, changes or evaluation.")
]
# Beside what is published: every measure of every judged query, as `evaluate` wrote it.
EVALUATION = "evaluation"


def results(
    config: ConfigPath,
    sets: Sets = None,
    table: Table = "ranked",
    generation: Generation = None,
    files: Files = False,
    duckdb: DuckDB = False,
    json: Json = False,
) -> None:
    """Prints the files, counts and generation of what is published."""
    from nightrank.config.file import load_config
    from nightrank.generations.results import evaluation_file, file_list, generation_of, open_lake

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    tables = {
        name: (len(f), sum(one["rows"] for one in f)) for name, f in entry.body["files"].items()
    }
    if table == EVALUATION:
        held = evaluation_file(store, entry, loaded)
        paths, tables[EVALUATION] = [store.path(held.key)], (1, held.rows)
    else:
        paths = file_list(store, entry, table)
    if files:
        print("\n".join(paths))
    elif duckdb:
        quoted = ",\n  ".join("'" + path.replace("'", "''") + "'" for path in paths)
        print(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet([\n  {quoted}\n]);")
    elif json:
        plain = {"generation": entry.generation, "table": table, "files": paths}
        print_json({**plain, "rows": tables[table][1], "counts": entry.body["counts"]})
    else:
        print(f"generation {entry.generation} of {store.url}")
        for name, (count, rows) in tables.items():
            print(f"  {name}: {rows} rows in {count} file(s)")
        print("\n".join(f"    {path}" for path in paths))
