"""Requests to S3, counted from the commit protocol and from what every unit opens.

Writing: a PUT for each data file (more for one above 50 MB, which s3fs sends in parts), one for the
unit's record, one for the stage's manifest; LISTs are priced like PUTs. Reading: a table takes a
HEAD for its size and a GET, a range of a scatter file is one GET; input files are read by
blocks of 5 MB, which is what fsspec reads ahead.
"""

from __future__ import annotations

from nightrank.forecast.artifacts import Written
from nightrank.forecast.shape import Shape, units_of

PART_BYTES, BLOCK_BYTES = 50 << 20, 5 << 20
TABLE, RANGE = 2, 1
# A table read by row groups: its size, its footer in two parts, a row group in two.
GROUPS = 5
# Where a stage begins: its manifest is looked for, once to list the stages and once to run it;
# records and data are listed. s3fs looks for a
# folder where it finds no file, and lists the parent of a folder that is not there.
LISTS, HEADS = 7, 2
# Before and after the stages: the probe, the logs, the plan, the events; manifests read again.
ONCE_PUT, ONCE_GET = 33, 12


def puts(shape: Shape, written: dict[str, Written]) -> int:
    """PUT, LIST and the like of a whole run."""
    units, total = units_of(shape), ONCE_PUT
    for stage, files in written.items():
        count = units.get(stage, 1)
        total += files.count + count + 1 + LISTS
        for size in files.files.values():
            each = size / max(1, count)
            if each > PART_BYTES:
                total += count * (round(each / PART_BYTES) + 2)
    return total


def gets(shape: Shape, written: dict[str, Written], tokenizers: int, workers: int) -> int:
    """GET and HEAD of a whole run.

    Args:
        shape: the job.
        written: what every stage writes.
        tokenizers: how many there are.
        workers: that search; each opens the groups that it searches.
    """
    units, total = units_of(shape), ONCE_GET + HEADS * len(written)
    documents, shards = shape.document_shards, shape.query_shards
    corpus, queries = shape.corpus, shape.queries
    hybrid = "terms of documents" in written
    blocks = 2 * (corpus.size // BLOCK_BYTES) + queries.size // BLOCK_BYTES
    opened = [max(side.splits, side.files) for side in (corpus, queries)]
    total += blocks + 3 * (2 * opened[0] + opened[1])
    total += units["delta corpus"] * corpus.splits + units["delta queries"] * queries.splits
    # Extract reads what each delta keeps of its split; its rows are read by the segment's shards.
    total += RANGE * corpus.splits * units["delta corpus"] + GROUPS * max(documents, corpus.splits)
    # Tokens, terms and ids of texts; tokens and terms are read to embed, to train and to build.
    total += TABLE * documents * (2 * tokenizers + 2 + 3 * hybrid)
    total += TABLE * shape.index_shards * hybrid
    total += RANGE * shards * queries.splits + TABLE * shards * (2 * tokenizers + hybrid)
    loaded = min(workers, shards) * shape.index_shards
    total += TABLE * units["search"] * (1 + hybrid)
    total += (TABLE * (1 + hybrid) + RANGE) * min(loaded, units["search"] * shape.index_shards)
    if not shape.flat:
        total += TABLE * documents * min(workers, shards)
    total += TABLE * units["search"]
    for step in shape.steps:
        # Every unit reads its shard's range of all query shards' pairs, and queries once a worker.
        meets = min(shards, max(1, step.pairs // max(1, step.units)))
        total += (
            step.units * (TABLE + RANGE * meets) + TABLE * min(workers, step.units) * shards * 2
        )
        # Ranking reads its query shard's range of every unit that has one.
        total += RANGE * step.units * meets + TABLE * 3 * shards
    # Rejects of inputs, vectors and ranks, and their ids.
    total += RANGE * units["changes"] * shards + TABLE * (corpus.splits + 2 * shards)
    # What is published is read once more before: lists and accounts of queries, changes, rejects.
    return total + RANGE * (2 * shards + units["changes"] + 1)
