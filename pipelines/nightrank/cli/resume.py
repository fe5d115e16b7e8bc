"""Ends a rollback: `nightrank resume CONFIG`. The next run publishes if its gate passes.

Publishes nothing itself: until the next run readers see the generation that was rolled back to.
"""

from __future__ import annotations

from typing import Annotated

import typer

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; stored in the log.")]


def resume(config: ConfigPath, reason: Reason = "", sets: Sets = None, json: Json = False) -> None:
    """Lets runs publish again after a rollback; does nothing if none is in force."""
    from nightrank.config.file import load_config
    from nightrank.generations import rollbacks
    from nightrank.generations.results import generation_of, open_lake

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    current = generation_of(store)
    ended = rollbacks.resume(store, reason)
    nightly = command("nightly", config, sets)
    if json:
        number = ended.generation if ended else None
        print_json({"generation": current.generation, "resumes": number, "next": nightly})
    elif ended is None:
        print(f"no rollback is in force; generation {current.generation} is published")
    else:
        print(f"publication resumed; until the next run readers see generation {ended.generation}")
        print(f"next: {nightly}")
