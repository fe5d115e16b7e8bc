"""Deletes datasets that nothing needs: `nightrank gc CONFIG`; without --delete a dry run.

nightrank gc my.yaml                       # what would be deleted
nightrank gc my.yaml --delete
"""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

RETAIN, MIN_AGE_DAYS = 3, 7.0
Retain = Annotated[int, typer.Option("--retain", metavar="N", help="Newest generations to keep.")]
Age = Annotated[
    float, typer.Option("--min-age-days", metavar="D", help="Keep everything younger than this.")
]
Delete = Annotated[bool, typer.Option("--delete", help="Record it in the logs, then delete.")]


def gc(
    config: ConfigPath,
    sets: Sets = None,
    retain: Retain = RETAIN,
    min_age_days: Age = MIN_AGE_DAYS,
    delete: Delete = False,
    json: Json = False,
) -> None:
    """Deletes old generations, intermediates of finished runs, and abandoned runs."""
    from nightrank.config.file import load_config
    from nightrank.generations.results import open_lake
    from nightrank.generations.retention import collect, collectable

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    datasets = (collect if delete else collectable)(store, retain, min_age_days)
    total = sum(dataset.bytes for dataset in datasets)
    if json:
        paths = [dataset.path for dataset in datasets]
        print_json({"deleted": delete, "datasets": paths, "bytes": total})
        return
    for dataset in datasets:
        print(f"{dataset.bytes / 1e6:10.2f} MB  {dataset.path}")
    done = "deleted" if delete else "would be deleted"
    print(f"{len(datasets)} datasets, {total / 1e6:.2f} MB {done}")
    if datasets and not delete:
        options = ["--delete"]
        options += ["--retain", str(retain)] if retain != RETAIN else []
        options += ["--min-age-days", f"{min_age_days:g}"] if min_age_days != MIN_AGE_DAYS else []
        print(f"to delete them: {command('gc', config, sets, *options)}")
