"""Deletes what nothing needs any more: `nightrank gc CONFIG`. A dry run unless told otherwise.

nightrank gc my.yaml                       # what would go
nightrank gc my.yaml --delete
"""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

RETAIN, MIN_AGE_DAYS = 3, 7.0
Retain = Annotated[int, typer.Option("--retain", metavar="N", help="Generations that are kept.")]
Age = Annotated[
    float, typer.Option("--min-age-days", metavar="D", help="Nothing younger is touched.")
]
Delete = Annotated[bool, typer.Option("--delete", help="Condemn in the logs, then delete.")]


def gc(
    config: ConfigPath,
    sets: Sets = None,
    retain: Retain = RETAIN,
    min_age_days: Age = MIN_AGE_DAYS,
    delete: Delete = False,
    json: Json = False,
) -> None:
    """Old generations, finished intermediates and runs that were given up."""
    from nightrank.config.file import load_config
    from nightrank.generations.results import open_lake
    from nightrank.generations.retention import collect, collectable

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    found = (collect if delete else collectable)(store, retain, min_age_days)
    total = sum(one.bytes for one in found)
    if json:
        paths = [one.path for one in found]
        print_json({"deleted": delete, "datasets": paths, "bytes": total})
        return
    for one in found:
        print(f"{one.bytes / 1e6:10.2f} MB  {one.path}")
    done = "deleted" if delete else "would be deleted"
    print(f"{len(found)} datasets, {total / 1e6:.2f} MB {done}")
    if found and not delete:
        given = ["--delete"]
        given += ["--retain", str(retain)] if retain != RETAIN else []
        given += ["--min-age-days", f"{min_age_days:g}"] if min_age_days != MIN_AGE_DAYS else []
        print(f"to delete them: {command('gc', config, sets, *given)}")
