"""The index half alone: `nightrank reindex CONFIG`; teams that schedule the halves apart.

nightrank reindex my.yaml          # the corpus as it is now, at the cost of what changed
"""

from __future__ import annotations

import time

from nightrank.cli.closing import command, print_json
from nightrank.cli.run import execute
from nightrank.cli.terminal import ConfigPath, Force, Json, Sets, open_job


def reindex(
    config: ConfigPath, sets: Sets = None, force_publish: Force = "", json: Json = False
) -> None:
    """Brings the index up to date with the corpus; queries are not touched."""
    started = time.monotonic()
    with open_job(config, sets, json, "index", verb="reindex", force_publish=force_publish) as job:
        job.gate = True
        summary = execute(job)
        before = job.plan.base.generation if job.plan.base else 0
    summary["published"] = summary["index_generation"] != before
    summary["seconds"] |= {"total": round(time.monotonic() - started, 2)}
    if json:
        print_json(summary)
        return
    counts = ", ".join(f"{summary[f'documents_{n}']} {n}" for n in ("added", "changed", "removed"))
    done = "published" if summary["published"] else "nothing to do, still"
    print(
        f"{done} index generation {summary['index_generation']}: {counts}, "
        f"{summary['documents_embedded']} embedded, {summary['seconds']['total']:.1f} s"
    )
    print(f"rank against it: {command('rank', config, sets)}")
