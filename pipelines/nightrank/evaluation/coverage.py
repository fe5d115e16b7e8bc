"""Which share of the judged documents and queries exists in the corpus and the queries.

If none does, e.g. since the ids follow another scheme, measures are 0 for any ranking.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

# Below this share measures depend more on the missing judgements than on the ranking.
FEW = 0.5
ID_LENGTH = 60


@dataclass(frozen=True)
class Coverage:
    """How many judged documents or queries are known.

    Attributes:
        kind: `documents` or `queries`.
        judged: different ids in the judgements.
        looked_up: those that were looked up: all, or a sample by hash.
        known: those of them that exist.
        unknown_id: one that does not; empty where all do.
        known_id: an id that does exist, to compare with; empty where there is none.
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
        """Counts.

        Args:
            kind: of what.
            judged: different ids in the judgements.
            looked_up: string[n], those that were looked up.
            known: bool[n].
            known_id: an id that exists here.
        """
        unknown = looked_up.filter(pc.invert(known))
        shown = pc.min(unknown).as_py() or ""
        return cls(kind, judged, len(looked_up), len(looked_up) - len(unknown), shown, known_id)

    @property
    def place(self) -> str:
        """Where the ids should be."""
        return "in the corpus" if self.kind == "documents" else "among the queries"

    @property
    def share(self) -> str:
        """The figures, for a person."""
        sample = "" if self.looked_up == self.judged else f" (a sample of {self.judged:,})"
        return f"{self.known:,} of {self.looked_up:,}{sample}"

    @property
    def warning(self) -> str:
        """One line where few or none are known, else empty."""
        if not self.looked_up or self.known >= FEW * self.looked_up:
            return ""
        sample = "" if self.looked_up == self.judged else f"{self.looked_up:,} looked up of the "
        of = f"{sample}{self.judged:,} judged {self.kind}"
        few = f"none of the {of} is" if not self.known else f"only {self.known:,} of the {of} are"
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


def describe(covered: list[Coverage]) -> list[str]:
    """The lines for a person: the shares, and a warning for each that is low."""
    shares = ", ".join(f"{one.share} judged {one.kind} {one.place}" for one in covered)
    return [shares, *(f"warning: {one.warning}" for one in covered if one.warning)]


def _short(id: str) -> str:
    return repr(id if len(id) <= ID_LENGTH else id[: ID_LENGTH - 1] + "…")
