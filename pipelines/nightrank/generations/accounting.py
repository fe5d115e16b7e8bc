"""Every row is accounted for: budgets while a run goes on, balances before it publishes."""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.config.schema import Corpus, Queries
from nightrank.errors import NightrankError
from nightrank.inputs.raw import Wanted, id_name
from nightrank.models.protocols import ResolvedModel
from nightrank.storage.dataset import Manifest

# An output that is no number is the model's or the hardware's fault, not the data's. Inputs that
# were set aside since they kill their worker are bounded a unit, and not counted here.
MAX_UNUSABLE = 0.001


def check_input(kind: str, source: Corpus | Queries, ingested: Manifest) -> None:
    """Refuses an empty input, ids of two types, absent columns, and more rejects than the budget.

    Raises:
        NightrankError: E_SCHEMA where one file has integers for ids and another strings: 7 and "7"
            would be one document, and where a column that was asked for is in no row of the input;
            E_REJECT_BUDGET with the reasons; E_EMPTY.
    """
    places: dict[str, str] = {}
    for shard in ingested.shards:
        places = {**shard.stats["id_types"], **places}
    if {"integer", "string"} <= set(places):
        what = f"ids are integers in {places['integer']} and strings in {places['string']}"
        do = "write them as one type: 7 and '7' would be taken for one"
        raise NightrankError("E_SCHEMA", what, f"{kind}.path {source.path}", do)
    _check_columns(kind, source, ingested)
    rows, rejected = ingested.total("rows_in"), ingested.total("rejected")
    if rejected > source.reject_budget * rows:
        what = (
            f"{rejected} of {rows} {kind} rows were rejected, allowed are "
            f"{source.reject_budget:.2%}: {_reasons(ingested)}"
        )
        examples = [s.stats["example"] for s in ingested.shards if "example" in s.stats]
        do = f"correct the input, or raise {kind}.reject_budget"
        raise NightrankError("E_REJECT_BUDGET", what, f"e.g. {examples[0]}", do)
    if not ingested.total("accepted") and not source.allow_empty:
        hint = " selected" if ingested.total("unselected") else ""
        what = f"the {kind} hold not a single usable row{hint} ({rows} rows read)"
        do = f"check {kind}.path, or set {kind}.allow_empty=true"
        raise NightrankError("E_EMPTY", what, source.path, do)


def check_vectors(name: str, embedded: Manifest, rows: int, model: ResolvedModel) -> None:
    """Refuses an encoder that fails on more than one text in a thousand.

    Raises:
        NightrankError: E_REJECT_BUDGET.
    """
    rejected = embedded.total("rejected") - embedded.total("set_aside")
    if rejected > MAX_UNUSABLE * rows:
        what = f"{rejected} of {rows} {name} have no usable vector"
        do = "set encoder.precision=exact where it is not; else the model is at fault"
        raise NightrankError("E_REJECT_BUDGET", what, model.model, do)


def check_scores(scored: Manifest, model: ResolvedModel) -> None:
    """Refuses a reranker that fails on more than one pair in a thousand.

    Raises:
        NightrankError: E_REJECT_BUDGET.
    """
    pairs = scored.total("pairs")
    rejected = scored.total("nonfinite") - scored.total("set_aside")
    if rejected > MAX_UNUSABLE * pairs:
        what = f"{rejected} of {pairs} pairs have no finite score"
        do = "set precision=exact of this step where it is not; else the model is at fault"
        raise NightrankError("E_REJECT_BUDGET", what, model.model, do)


def _check_columns(kind: str, source: Corpus | Queries, ingested: Manifest) -> None:
    """Refuses an input without a row that has a declared column: its name is probably misspelt.

    A JSONL row may omit any column, so this cannot be decided by a row or a part of a file.
    """
    wanted = Wanted.of(kind, source)
    accepted = ingested.total("accepted")
    if not accepted:
        return
    required = set(wanted.required)
    if ingested.total("deletes") == accepted:  # A feed's rows that delete have no other columns.
        required &= {id_name(kind), "op", "sequence"}
    for shard in ingested.shards:
        required -= set(shard.stats["columns"])
    if required:
        ours = sorted(required)[0]
        what = f"column {wanted.spelt(ours)} is in no row of the {kind}"
        do = f"correct {kind}.columns or attributes; or, if it may be absent, write a null once"
        raise NightrankError("E_SCHEMA", what, f"{kind}.path {source.path}", do)


def _reasons(ingested: Manifest) -> str:
    totals: dict[str, int] = {}
    for shard in ingested.shards:
        for reason, count in shard.stats["reasons"].items():
            totals[reason] = totals.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in sorted(totals.items()))


@dataclass(frozen=True)
class Balance:
    """What became of one kind of rows; `total` must equal the sum of the parts."""

    kind: str
    total: int
    parts: dict[str, int]

    def check(self) -> None:
        """Refuses a sum that does not balance.

        Raises:
            NightrankError: E_ACCOUNTING with every part.
        """
        if self.total != sum(self.parts.values()):
            parts = " + ".join(f"{count} {name}" for name, count in self.parts.items())
            what = f"{self.kind} do not balance: {self.total} in, {parts} out"
            raise NightrankError(
                "E_ACCOUNTING", what, "publish", "nothing was published; report this"
            )

    def to_dict(self) -> dict[str, int]:
        """Counts as published: `in` and the parts."""
        return {"in": self.total, **self.parts}


def documents_balance(
    ingested: Manifest,
    delta: Manifest,
    vectors: int,
    tombstoned: int,
    rejects: Manifest,
    feed: bool = False,
) -> Balance:
    """Documents in = indexed + rejected + superseded.

    Of a change feed the documents that existed before are in as well; what a row deletes or
    replaces, that row where it deletes, and rows that change nothing are superseded.

    Args:
        ingested: of the whole input.
        delta: what it changed.
        vectors: rows of all index shards.
        tombstoned: tombstones in the segments that these are of.
        rejects: counts documents, tombstoned ones apart, that never had a usable vector.
        feed: whether the input is a change feed.
    """
    parts = {
        "indexed": vectors - (tombstoned - rejects.total("tombstoned_without_vector")),
        "rejected": ingested.total("rejected") + rejects.total("current_without_vector"),
        "superseded": delta.total("dropped"),
    }
    total = ingested.total("rows_in")
    if feed:
        total += delta.total("unchanged") + delta.total("changed") + delta.total("removed")
        effects = ("changed", "removed", "without_effect")
        parts["superseded"] += sum(delta.total(name) for name in effects)
    return Balance("documents", total, parts)


def queries_balance(ingested: Manifest, delta: Manifest, ranked: Manifest) -> Balance:
    """Queries in = ranked + without candidates + rejected + unselected."""
    rejected = (
        ingested.total("rejected") + delta.total("dropped") + ranked.total("queries_rejected")
    )
    parts = {
        "ranked": ranked.total("queries_ranked"),
        "no_candidates": ranked.total("queries_no_candidates"),
        "rejected": rejected,
        "unselected": ingested.total("unselected"),
    }
    return Balance("queries", ingested.total("rows_in"), parts)
