"""The share of judged documents and queries that exist in the corpus and in the queries.

Where none exists, e.g. because the ids follow another scheme, every measure is 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

# Below this share, measures depend more on missing ids than on the ranking.
LOW_SHARE = 0.5
SHOWN_ID_LENGTH = 60


@dataclass(frozen=True)
class Coverage:
    """How many judged documents or queries exist.

    Attributes:
        kind: `documents` or `queries`.
        judged: number of distinct ids in the judgements.
        looked_up: number of ids that were looked up: all, or a sample by hash.
        known: number of looked-up ids that exist.
        unknown_id: a looked-up id that does not exist; empty if all exist.
        known_id: an id of the corpus or the queries, to compare with; empty if there is none.
    """

    kind: Literal["documents", "queries"]
    judged: int
    looked_up: int
    known: int
    unknown_id: str = ""
    known_id: str = ""

    @classmethod
    def of(
        cls,
        kind: Literal["documents", "queries"],
        judged: int,
        looked_up: pa.Array,
        known: pa.Array,
        known_id: str,
    ) -> Coverage:
        """Counts the ids that exist.

        Args:
            kind: `documents` or `queries`.
            judged: number of distinct ids in the judgements.
            looked_up: string[n], the ids that were looked up.
            known: bool[n], whether each of them exists.
            known_id: an id of the corpus or the queries; empty if there is none.
        """
        unknown = looked_up.filter(pc.invert(known))
        unknown_id = pc.min(unknown).as_py() or ""
        num_known = len(looked_up) - len(unknown)
        return cls(kind, judged, len(looked_up), num_known, unknown_id, known_id)

    @property
    def place(self) -> str:
        """Where the ids are looked up."""
        return "in the corpus" if self.kind == "documents" else "among the queries"

    @property
    def share(self) -> str:
        """The counts as text, e.g. `90 of 100`."""
        sample = "" if self.looked_up == self.judged else f" (a sample of {self.judged:,})"
        return f"{self.known:,} of {self.looked_up:,}{sample}"

    @property
    def warning(self) -> str:
        """One line if fewer than half of the ids exist; else empty."""
        if not self.looked_up or self.known >= LOW_SHARE * self.looked_up:
            return ""
        sample = "" if self.looked_up == self.judged else f"{self.looked_up:,} looked up of the "
        ids = f"{sample}{self.judged:,} judged {self.kind}"
        few = f"only {self.known:,} of the {ids} are" if self.known else f"none of the {ids} is"
        compare = f"compare the ids, e.g. {_short(self.unknown_id)}"
        if self.known_id:
            compare += f" against {_short(self.known_id)}"
        return f"{few} {self.place}: {compare}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, the warning included."""
        return {**asdict(self), "warning": self.warning}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Coverage:
        """The inverse of `to_dict`."""
        return cls(**{name: value for name, value in plain.items() if name != "warning"})


def describe(coverages: list[Coverage]) -> list[str]:
    """Lines for the terminal: the shares, then a warning for each low one."""
    shares = ", ".join(f"{each.share} judged {each.kind} {each.place}" for each in coverages)
    return [shares, *(f"warning: {each.warning}" for each in coverages if each.warning)]


def _short(id: str) -> str:
    return repr(id if len(id) <= SHOWN_ID_LENGTH else id[: SHOWN_ID_LENGTH - 1] + "…")
