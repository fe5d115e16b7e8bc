"""Requests to S3, counted from the commit protocol and from what every unit opens.

Writing: a PUT for each data file (more for one that goes up in parts), one for the unit's record,
one for the stage's manifest. Reading: a GET for each file or range that a unit opens; input files
by blocks of 5 MB, which is what fsspec reads ahead. LISTs are priced like PUTs.
"""

from __future__ import annotations

import math

from pipelines.forecast.artifacts import Written
from pipelines.forecast.shape import Shape, units_of
from pipelines.storage.store import PART_BYTES

BLOCK_BYTES = 5 << 20
# Listing what is done and what lies there, twice, where a stage begins.
LISTS = 4


def puts(shape: Shape, made: dict[str, Written]) -> int:
    """PUT, LIST and the like of a whole run."""
    units, total = units_of(shape), 4
    for stage, what in made.items():
        count = units.get(stage, 1)
        total += what.count + count + 1 + LISTS
        for size in what.files.values():
            each = size / max(1, count)
            if each >= 2 * PART_BYTES:
                total += count * (math.ceil(each / PART_BYTES) + 1)
    return total


def gets(shape: Shape, tokenizers: int, workers: int) -> int:
    """GET and HEAD of a whole run.

    Args:
        shape: the job.
        tokenizers: how many there are.
        workers: that search; each opens the groups that it meets.
    """
    units = units_of(shape)
    documents, asked = shape.document_shards, shape.query_shards
    corpus, queries = shape.corpus, shape.queries
    blocks = corpus.size // BLOCK_BYTES + queries.size // BLOCK_BYTES
    total = blocks + 2 * (corpus.splits + queries.splits)
    total += units["delta corpus"] * corpus.splits + units["delta queries"] * queries.splits
    # Extract reads its split again; its rows are read by the segment's shards.
    total += corpus.size // BLOCK_BYTES + corpus.splits * (1 + units["delta corpus"])
    total += 2 * max(documents, corpus.splits)
    total += (tokenizers + 2) * documents + 4 * documents + shape.index_shards
    total += asked * (queries.splits + 1) + (tokenizers + 2) * asked
    opened = min(workers, asked) * shape.index_shards * 3
    total += units["search"] * 2 + min(opened, units["search"] * shape.index_shards * 3)
    if not shape.flat:
        total += documents * min(workers, asked)
    total += units["merge"] * shape.groups
    for step in shape.steps:
        # Every unit reads its shard's range of all query shards' pairs, and queries once a worker.
        meets = min(asked, max(1, step.pairs // max(1, step.units)))
        total += step.units * (1 + meets) + workers * asked * 2
        total += asked * (min(step.units, max(1, step.pairs // max(1, asked))) + 3)
    total += units["changes"] * asked + corpus.splits + asked
    return total + 8 * len(units)
