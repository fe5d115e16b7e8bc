"""One file per stage, all of one form, in pipeline order.

`VERSIONS` belongs to every plan's identity: a stage whose meaning changed never reuses old data.
"""

VERSIONS = {
    "ingest": 1,
    "delta": 1,
    "segment": 1,
    "distinct": 1,
    "tokenize": 1,
    "embed": 1,
    "train_index": 2,
    "build_index": 2,
    "search": 2,
    "merge": 2,
    "rerank": 1,
    "rank": 2,
    "rejects": 1,
    "publish": 1,
}
