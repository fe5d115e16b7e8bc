"""How many inputs were longer than their model's maximum length, and were truncated.

Documents are counted when they are embedded: the count covers all segments of the corpus. Queries
and pairs are those that this generation encoded and scored; reused ones were counted by earlier
generations. Shards of versions without this statistic add nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nightrank.models.protocols import ResolvedModel
from nightrank.storage.dataset import Manifest

STAT = "cut"


def counted(manifests: Iterable[Manifest], inputs: str) -> dict[str, int]:
    """`cut` and `of`: inputs that were cut, of those that were counted.

    Args:
        manifests: of stages that run a model.
        inputs: the statistic that counts the inputs of a shard.
    """
    stats = [shard.stats for one in manifests for shard in one.shards if STAT in shard.stats]
    return {
        "cut": sum(int(one[STAT]) for one in stats),
        "of": sum(int(one[inputs]) for one in stats),
    }


def summary(
    encoder: ResolvedModel,
    documents: Iterable[Manifest],
    queries: Iterable[Manifest],
    steps: Mapping[str, tuple[ResolvedModel, Iterable[Manifest]]],
) -> list[dict[str, Any]]:
    """One record for each kind of inputs, as a generation's entry in the log keeps it.

    Args:
        encoder: of documents and queries.
        documents: embeddings of every segment.
        queries: embeddings of the queries.
        steps: by name of a rerank step, its model and scores.

    Returns:
        `kind` (documents, queries, pairs), `model`, `tokens` (the limit), `cut`, `of`.
    """
    sides = (("documents", documents), ("queries", queries))
    records = [_record(kind, encoder, counted(manifests, "encoded")) for kind, manifests in sides]
    for name, (model, manifests) in steps.items():
        records.append(
            {**_record("pairs", model, counted(manifests, "pairs_scored")), "step": name}
        )
    return records


def _record(kind: str, model: ResolvedModel, counts: dict[str, int]) -> dict[str, Any]:
    return {"kind": kind, "model": model.model, "tokens": model.max_length_tokens, **counts}


def lines(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each kind of inputs of which some were cut."""
    return [
        f"{share(one['cut'] / one['of'])} of {one['of']:,} {one['kind']} are cut at"
        f" {one['tokens']} tokens ({one.get('step') or one['model']})"
        for one in records
        if one["cut"]
    ]


def share(part: float) -> str:
    """A share as a percentage; a small one is not rounded to 0."""
    return "less than 1 %" if 0 < part < 0.01 else f"{part * 100:.0f} %"
