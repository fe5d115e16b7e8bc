"""What a night would do, before anything is spent: `nightrank nightly CONFIG --dry-run`.

Both inputs are read in full, in this process, and compared with the lake; nothing is written to
it, not even a plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.cli.closing import print_json
from nightrank.cli.plan import finish, models_and_splits


@dataclass(frozen=True)
class Pricing:
    """Options of a forecast; see `nightrank plan`.

    Attributes:
        prices: USD by `cpu`, `gpu` (hours), `put`, `get` (thousands).
        device: a GPU of the table; None takes this machine.
        sample: rows of either input that are looked at.
        node_memory: GiB of a node; None takes this machine's.
    """

    prices: dict[str, float | None]
    device: str | None = None
    sample: int = 2000
    node_memory: float | None = None


def dry_run(config: str, sets: list[str] | None, asked: Pricing, json: bool) -> None:
    """Prints what changed, which pairs are new, what is computed again, time and money.

    Raises:
        NightrankError: as the night itself would refuse the config or an input.
    """
    from nightrank.cli.plan_table import table
    from nightrank.config.file import load_config
    from nightrank.forecast.hardware import GIB, device_named
    from nightrank.forecast.next_run import counted, next_run
    from nightrank.forecast.obstacles import obstacles
    from nightrank.forecast.predict import Question, predict
    from nightrank.generations.planning import make_plan
    from nightrank.generations.results import open_lake

    loaded = load_config(config, sets or [])
    gpu = device_named(asked.device) if asked.device else None
    memory = round(asked.node_memory * GIB) if asked.node_memory else None
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    made = make_plan(loaded, store, keeps=False)
    counts = counted(made, store)
    ask = Question(loaded, *models_and_splits(made), asked.sample, device=gpu, node_memory=memory)
    forecast = next_run(predict(ask), made, store, *counts)
    finish(forecast, loaded, made.left_out, asked.prices)
    forecast["warnings"] += obstacles(made, store, counts[0])
    note = "dry run: both inputs were read, nothing was written to the lake"
    if made.published is not None:
        note = f"{note}; generation {made.published} already has these results: nothing to do"
    forecast |= {"dry_run": True, "stored": False, "note": note}
    if json:
        print_json(forecast)
    else:
        print("\n".join(table(forecast, loaded.name)))
