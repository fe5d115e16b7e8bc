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
    from nightrank.api.reading import published

    held = published(config, sets or [], table=table, generation=generation)
    if files:
        print("\n".join(held.files))
    elif duckdb:
        print(held.duckdb_view())
    elif json:
        plain = {"generation": held.generation, "table": table, "files": held.files}
        print_json({**plain, "rows": held.rows, "counts": held.counts})
    else:
        print(f"generation {held.generation} of {held.url}")
        for name, size in held.sizes.items():
            print(f"  {name}: {size.rows} rows in {size.files} file(s)")
        print("\n".join(f"    {path}" for path in held.files))
