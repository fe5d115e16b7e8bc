"""The index half alone: `nightrank reindex CONFIG`, for schedules that run the halves apart.

nightrank reindex my.yaml          # the corpus as it is now, at the cost of what changed
"""

from __future__ import annotations

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Force, Json, Sets, prepare_run


def reindex(
    config: ConfigPath, sets: Sets = None, force_publish: Force = "", json: Json = False
) -> None:
    """Updates the index from the corpus; queries are not read."""
    loaded = prepare_run(config, sets)
    from nightrank.api import runs

    result = runs.reindex(loaded, force_publish=force_publish, progress=not json)
    if json:
        print_json(result.to_dict())
        return
    print(result)
    print(f"rank against it: {command('rank', config, sets)}")
