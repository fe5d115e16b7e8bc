"""Publishes an older generation again: `nightrank rollback CONFIG --to N --reason "..."`.

Deletes nothing. Until `nightrank resume CONFIG` (or a run with --force-publish) no other generation
is published.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets
from nightrank.errors import NightrankError

To = Annotated[str, typer.Option("--to", metavar="N|DATE", help="The generation to publish again.")]
Reason = Annotated[
    str | None,
    typer.Option(
        "--reason", metavar="TEXT", help="Why; stored in the log. A terminal asks for it."
    ),
]
NOT_GIVEN = "no reason given"


def rollback(
    config: ConfigPath, to: To, reason: Reason = None, sets: Sets = None, json: Json = False
) -> None:
    """Publishes an older generation under a new number; pauses publication until `resume`."""
    from nightrank.config.file import load_config
    from nightrank.generations.results import open_lake
    from nightrank.generations.rollbacks import roll_back

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = roll_back(store, to, _reason(reason))
    body, resume = entry.body, command("resume", config, sets)
    if body["reason"] == NOT_GIVEN:
        print('nightrank: no --reason "..." was given; the log says so', file=sys.stderr)
    if json:
        names = ("rolled_back_from", "rolled_back_to", "reason", "time")
        facts = {name: body[name] for name in names}
        print_json({"generation": entry.generation, **facts, "next": resume})
        return
    print(f"published generation {entry.generation}: generation {body['rolled_back_to']} again")
    print(f"publication is paused until: {resume}")


def _reason(given: str | None) -> str:
    """The reason; on a terminal the user is asked for it.

    A script that rolls back during an incident is not refused without one: it gets a reminder, and
    the log says that none was given.

    Raises:
        NightrankError: E_USAGE for an empty one.
    """
    if given is None and sys.stdin.isatty():
        print("Why is it rolled back? ", end="", file=sys.stderr, flush=True)
        given = sys.stdin.readline()
    if given is None:
        return NOT_GIVEN
    if not given.strip():
        do = 'say why: --reason "..."'
        raise NightrankError("E_USAGE", "a rollback needs a reason", "--reason", do)
    return given.strip()
