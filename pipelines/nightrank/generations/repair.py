"""A damaged file of unfinished work is quarantined, and the run that met it computes it again.

What is published is never touched: readers rely on those very bytes, and no run makes them twice.
"""

from __future__ import annotations

import re

from nightrank.errors import NightrankError
from nightrank.generations.entries import IndexEntry, ResultsEntry
from nightrank.storage.expiry import delete, move
from nightrank.storage.log import Log
from nightrank.storage.store import Store

# A dataset that stages make (models are not), and its file: a shard's, less what makes it unique.
MADE = re.compile(
    r"((?:segments|templates|queries|results)/.+?)/(?:_data/(.+)-[^-]+|manifest\.json)"
)
# Log entries name files of these: a concurrent run of the same plan may be about to publish it.
NAMED = ("rank", "rejects", "changes")
FOLDER = "_damaged"
# With more of them it is the disk or the memory that is damaged.
MOST = 8


class Repair:
    """What one run has quarantined.

    Args:
        store: the lake.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._met: set[tuple[str, str | None]] = set()

    def quarantine(self, error: NightrankError) -> str | None:
        """Makes the dataset unfinished that a damaged file is of, and keeps the file beside it.

        Args:
            error: what a run ended with, as `run_stage` raises it.

        Returns:
            The key of the file. None where the error tells of no damaged file, of a published one,
            or one that may be so soon, of one that was computed again already, or of one that this
            process may not take away.
        """
        cause = error.__cause__ if isinstance(error.__cause__, NightrankError) else error
        key = cause.where.removeprefix(self._store.path(""))
        match = MADE.fullmatch(key)
        if error.code != "E_CORRUPT" or not match or len(self._met) == MOST:
            return None
        dataset = match[1]
        named = dataset.rpartition("/")[2].partition("-")[0] in NAMED
        if named or match.groups() in self._met or dataset in _published(self._store):
            return None
        self._met.add((dataset, match[2]))
        try:
            # The manifest first: if this is cut short, the next run quarantines the file.
            if key != f"{dataset}/manifest.json":
                delete(self._store, [f"{dataset}/manifest.json"])
            move(self._store, key, f"{dataset}/{FOLDER}/{key.rpartition('/')[2]}")
        except NightrankError as denied:
            if denied.code != "E_AUTH":
                raise
            return None  # As with the writer's role of infra/iam: the error is reported.
        return key


def _published(store: Store) -> set[str]:
    """Datasets that a generation is read from, or a later run builds on."""
    paths: set[str] = set()
    for entry in Log(store, "index").published():
        paths.update(IndexEntry.of(entry).datasets())
    for entry in Log(store, "results").published():
        results = ResultsEntry.of(entry)
        paths.update(results.read_datasets())
        paths.update(results.reused_datasets())
    return paths
