"""One file per stage, all of one form. Stages do not import each other.

`VERSIONS` belongs to every plan's identity: a stage whose meaning changed never reuses old data.

May import: everything below: datasets, runtime, retrieval, models, inputs, storage, config.
"""

VERSIONS = {
    "ingest": 4,
    "delta": 2,
    "extract": 3,
    "segment": 2,
    "compact": 1,
    "copy": 1,
    "distinct": 1,
    "tokenize": 1,
    "embed": 1,
    "train_index": 2,
    "build_index": 2,
    "carry": 1,
    "search": 3,
    "merge": 3,
    "rerank": 2,
    "rank": 3,
    "changes": 1,
    "rejects": 3,
    "publish": 1,
}
