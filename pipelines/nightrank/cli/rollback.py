"""An older generation again: `nightrank rollback CONFIG --to N`. Nothing is deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.cli.terminal import ConfigPath, Sets

To = Annotated[str, typer.Option("--to", metavar="N|DATE", help="What readers are to see again.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; stands in the log.")]


def rollback(config: ConfigPath, to: To, reason: Reason = "", sets: Sets = None) -> None:
    """Publishes an older generation's files under a new number; runs planned before are stale."""
    from nightrank.config_file import load_config
    from nightrank.generations import datasets_of_results
    from nightrank.results import check_files, generation_of, open_lake
    from nightrank.storage.log import Log

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    log = Log(store, "results")
    entry, number = generation_of(store, to), log.last()
    check_files(store, entry)  # Nobody rolls back to find files missing; `verify` reads them.
    body = {**entry.body, "kind": "rollback", "rolled_back_to": entry.generation, "reason": reason}
    made = log.append(body, number, uses=datasets_of_results(entry.body))
    print(f"generation {made.generation} holds what generation {entry.generation} held")
