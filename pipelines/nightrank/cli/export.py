"""Results in other forms: a TREC run, a Hive-partitioned folder, an Apache Iceberg table.

nightrank export my.yaml --trec run.txt
nightrank export my.yaml --hive s3://bucket/scifact   # run_date=YYYY-MM-DD, missing days
nightrank export my.yaml --iceberg search.ranked      # one snapshot a generation
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.paths import any_path, check_writable, local_path, replacing
from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets

if TYPE_CHECKING:
    from nightrank.config.schema import PipelineConfig
    from nightrank.storage.store import Store

Trec = Annotated[Path | None, typer.Option("--trec", metavar="FILE", help="TREC run to write.")]
Full = Annotated[
    bool, typer.Option("--full", help="TREC: every scored candidate, not only the published.")
]
Tag = Annotated[str, typer.Option("--tag", help="TREC: the run's name, last column of the file.")]
Hive = Annotated[
    str | None,
    typer.Option("--hive", metavar="DIR", help="Hive folder; missing days are added."),
]
Replace = Annotated[
    bool, typer.Option("--replace", help="Hive: replace days that hold another generation.")
]
Iceberg = Annotated[
    str | None,
    typer.Option("--iceberg", metavar="NAMESPACE.TABLE", help="Iceberg table to update."),
]
Catalog = Annotated[str | None, typer.Option("--catalog", help="Iceberg: the catalog's name.")]
Table = Annotated[str, typer.Option("--table", help="Iceberg: ranked, queries, rejects, changes.")]


def export(
    config: ConfigPath,
    sets: Sets = None,
    trec: Trec = None,
    hive: Hive = None,
    iceberg: Iceberg = None,
    generation: Generation = None,
    full: Full = False,
    tag: Tag = "nightrank",
    replace: Replace = False,
    catalog: Catalog = None,
    table: Table = "ranked",
    json: Json = False,
) -> None:
    """Writes what is published in another form; what was exported before is left as it is."""
    from nightrank.config.file import load_config
    from nightrank.errors import NightrankError
    from nightrank.generations.results import open_lake

    if [trec, hive, iceberg].count(None) != 2:
        do = "choose one of --trec FILE, --hive DIR and --iceberg NAMESPACE.TABLE"
        raise NightrankError("E_USAGE", "expected one form to export to", "", do)
    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    if trec is not None:
        lines, plain = _trec(store, local_path(trec), generation, full, tag)
    elif hive is not None:
        lines, plain = _hive(loaded, store, any_path(hive), generation, replace)
    else:
        lines, plain = _iceberg(loaded, store, str(iceberg), generation, catalog, table)
    if json:
        print_json(plain)
    else:
        print("\n".join(lines))


# An export's lines for a person, and its JSON.
Summary = tuple[list[str], dict[str, Any]]


def _trec(store: Store, trec: Path, generation: str | None, full: bool, tag: str) -> Summary:
    """A TREC run; trec_eval derives the published ranks from it."""
    from nightrank.errors import NightrankError
    from nightrank.exports.trec import write_run
    from nightrank.generations.results import full_lists, generation_of, published_table

    check_writable(trec)
    if tag.split() != [tag]:
        do = "choose a tag without white space"
        raise NightrankError("E_USAGE", f"--tag {tag!r} is not allowed in a TREC run", "", do)
    entry = generation_of(store, generation)
    columns = ["query_id", "doc_id", "rank", "score"]
    table = full_lists(store, entry) if full else published_table(store, entry, "ranked", columns)
    with replacing(trec) as file:
        write_run(table.select(columns), file, tag)
    line = f"{table.num_rows} rows of generation {entry.generation} -> {trec}"
    return [line], {
        "generation": entry.generation,
        "rows": table.num_rows,
        "file": str(trec),
    }


def _hive(
    loaded: PipelineConfig, store: Store, folder: str, generation: str | None, replace: bool
) -> Summary:
    from nightrank.exports.hive import export_hive
    from nightrank.storage.store import Store

    target = Store(folder, loaded.storage_options)
    done = export_hive(store, target, loaded.name, generation, replace)
    lines = [f"generation {number} -> run_date={day}" for day, number in done.written.items()]
    counts = f"{len(done.written)} day(s) exported, {len(done.present)} already there"
    lines.append(f"{counts} -> {folder}")
    if done.expired:
        lines.append(
            f"{len(done.expired)} day(s) up to {done.expired[-1]} not exported: `gc` deleted them"
        )
    days = {"written": done.written, "present": done.present, "expired": done.expired}
    return lines, {"folder": folder, **days}


def _iceberg(
    loaded: PipelineConfig,
    store: Store,
    identifier: str,
    generation: str | None,
    catalog: str | None,
    table: str,
) -> Summary:
    from nightrank.exports.iceberg import register
    from nightrank.generations.results import generation_of

    entry = generation_of(store, generation)
    snapshot = register(store, entry, identifier, loaded.name, table, catalog)
    state = "is now" if snapshot.new else "was already"
    line = f"{identifier} {state} generation {entry.generation}, snapshot {snapshot.snapshot_id}"
    facts = {"generation": entry.generation, "table": identifier, "new": snapshot.new}
    return [line], {**facts, "snapshot": snapshot.snapshot_id}
