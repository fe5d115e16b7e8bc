"""What would keep an incremental run from being published, as far as that is known before it."""

from __future__ import annotations

import time

from nightrank.forecast.changes import DocumentChanges
from nightrank.generations import gate
from nightrank.generations.corpus import current_results
from nightrank.generations.planning import Plan
from nightrank.runtime.deadline import why_expired
from nightrank.storage.log import Log, held_back
from nightrank.storage.store import Store


def obstacles(plan: Plan, store: Store, documents: DocumentChanges) -> list[str]:
    """A rollback in force, a deadline that has passed, a corpus that the gate does not let through.

    Args:
        plan: the run.
        store: its lake.
        documents: what has changed in the corpus, counted.

    Returns:
        A line for each. Where the plan builds upon another index than readers see, the corpus is
        compared by the run alone.
    """
    lines = []
    log = Log(store, "results")
    if rollback := log.in_force():
        lines.append(f"the run would end at once: {held_back(rollback)}")
    if late := why_expired(store, plan.own_folder, plan.config.budget.until, time.time()):
        lines.append(f"the run would end at once: {late}")
    published, base = current_results(store), plan.usable_base
    if published and base and published.index_generation == base.generation:
        before = documents.living - documents.added + documents.removed
        limits = plan.config.gate
        removed = gate.deletions(limits, gate.Removals(documents.removed, before))
        if not removed.passed:
            lines.append(f"the gate would hold the run back: {removed}")
    return lines
