"""Judgements as stages use them: which file they are, and which of their ids the lake holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightrank.datasets.current_corpus import CurrentCorpus, ordinals_in
from nightrank.errors import NightrankError
from nightrank.evaluation.coverage import Coverage
from nightrank.inputs.listing import store_errors
from nightrank.inputs.qrels import read_qrels
from nightrank.inputs.splits import InputFile, list_inputs
from nightrank.storage import buckets, ordinals
from nightrank.storage.filesystem import connect
from nightrank.storage.hashes import id_hash
from nightrank.storage.reader import Reader

# Ids read at most to look judged documents up: some 2 s and 200 MB. Of a larger corpus those
# buckets that hold most of the judged documents, which their hash chose.
MOST_ROWS = 4_000_000


def find_qrels(path: str, options: dict[str, Any]) -> InputFile:
    """The file of judgements, whatever its name ends with.

    Raises:
        NightrankError: E_SCHEMA where a folder or glob has several; as `inputs.list_inputs`.
    """
    files = list_inputs(path, "tsv", options)
    if len(files) > 1:
        what = f"judgements are one file, found {len(files)}"
        raise NightrankError("E_SCHEMA", what, path, "name one, or write them into one")
    return files[0]


def load_qrels(path: str, options: dict[str, Any]) -> pa.Table:
    """Reads judgements from a local path or s3:// url; see `retrieval.qrels.read_qrels`."""
    filesystem, place = connect(path, options)
    with store_errors(path, "E_EMPTY"), filesystem.open(place, "rb") as file:
        return read_qrels(file, path)


def look_up(judged: pa.Array, current: CurrentCorpus, read: Reader) -> Coverage:
    """How many judged documents are in a corpus.

    Args:
        judged: string[n], different doc_ids.
        current: the corpus.
        read: opens its files.
    """
    segments = [
        (number, ref)
        for number, manifest in sorted(current.documents.items())
        for ref in manifest.files("ids")
    ]
    bucket = buckets.bucket_of(id_hash(judged))
    runs = _runs(bucket, sum(ref.rows for _, ref in segments))
    tombstones = list(enumerate(current.tombstone_files()))
    chosen = np.zeros(len(judged), dtype=bool)
    known = np.zeros(len(judged), dtype=bool)
    least: str | None = None
    for run in runs:
        mine = (bucket >= run.start) & (bucket < run.stop)
        tombstoned = ordinals_in([(p.ref, p.ranges) for p in buckets.parts(tombstones, run)], read)
        for part in buckets.parts(segments, run):
            table = part.read(read, "id")
            places = ordinals.pack(part.number, 0, table["row"].to_numpy())
            ids = table["id"].filter(pa.array(~np.isin(places, tombstoned)))
            known[mine] |= pc.is_in(judged.filter(pa.array(mine)), ids).to_numpy(
                zero_copy_only=False
            )
            least = min(filter(None, (least, pc.min(ids).as_py())), default=None)
        chosen |= mine
    kept = pa.array(chosen)
    is_known = pa.array(known).filter(kept)
    return Coverage.of("documents", len(judged), judged.filter(kept), is_known, least or "")


def _runs(bucket: np.ndarray, rows: int) -> list[range]:
    """The buckets to read."""
    if rows <= MOST_ROWS:
        return [range(buckets.BUCKETS)]
    most = max(1, buckets.BUCKETS * MOST_ROWS // rows)
    counts = np.bincount(bucket, minlength=buckets.BUCKETS)
    fullest = np.argsort(-counts, kind="stable")[:most]
    return [range(b, b + 1) for b in sorted(fullest.tolist()) if counts[b]]
