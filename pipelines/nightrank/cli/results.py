"""Where the published results are: `nightrank results CONFIG`.

nightrank results my.yaml --files                # one path a line
nightrank results my.yaml --duckdb | duckdb      # a CREATE VIEW statement
"""

from __future__ import annotations

from typing import Annotated

import orjson
import typer

from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets

Files = Annotated[bool, typer.Option("--files", help="Only the paths, one a line.")]
DuckDB = Annotated[bool, typer.Option("--duckdb", help="A CREATE VIEW statement over the files.")]
Table = Annotated[str, typer.Option("--table", help="ranked, queries, rejects or changes.")]


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
    from nightrank.config_file import load_config
    from nightrank.results import file_list, generation_of, open_lake

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    paths = file_list(store, entry, table)
    if files:
        print("\n".join(paths))
    elif duckdb:
        quoted = ",\n  ".join("'" + path.replace("'", "''") + "'" for path in paths)
        print(f"CREATE OR REPLACE VIEW {table} AS SELECT * FROM read_parquet([\n  {quoted}\n]);")
    elif json:
        counts = entry.body["counts"]
        plain = {"generation": entry.generation, "table": table, "files": paths, "counts": counts}
        print(orjson.dumps(plain).decode())
    else:
        print(f"generation {entry.generation} of {store.url}")
        for name, found in entry.body["files"].items():
            rows = sum(file["rows"] for file in found)
            print(f"  {name}: {rows} rows in {len(found)} file(s)")
        print("\n".join(f"    {path}" for path in paths))
