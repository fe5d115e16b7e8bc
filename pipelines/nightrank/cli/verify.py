"""Checks a published generation again, from its bytes: `nightrank verify CONFIG`."""

from __future__ import annotations

from nightrank.cli.closing import print_json
from nightrank.cli.terminal import ConfigPath, Generation, Json, Sets


def verify(
    config: ConfigPath, sets: Sets = None, generation: Generation = None, json: Json = False
) -> None:
    """Checks digests, row counts, order, uniqueness, balances and the log of a generation."""
    from nightrank.config.file import load_config
    from nightrank.generations.results import generation_of, open_lake
    from nightrank.generations.verification import verify_generation

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    entry = generation_of(store, generation)
    checked = verify_generation(store, entry)
    if json:
        print_json({"generation": entry.generation, "checked": checked})
        return
    print(f"generation {entry.generation} is sound:")
    for name, count in checked.items():
        print(f"  {name}: {count}")
