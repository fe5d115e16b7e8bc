"""A corpus and queries that change from one run to the next."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from nightrank.generations.results import open_lake
from nightrank.storage.log import Log
from nightrank.storage.sealed import seal
from nightrank.storage.store import Store
from tests.support.collection import WORDS, Collection, write_jsonl

# Results are compared under one template.
NO_DRIFT = {"recall_floor": 0.0, "max_imbalance": 1e9}


class World:
    """A corpus and queries that change from night to night, many texts alike."""

    def __init__(self, folder: Path, seed: int, documents: int = 300, queries: int = 30) -> None:
        self.rng, self.folder = random.Random(seed), folder
        self.documents = {f"d{i:04d}": self._text() for i in range(documents)}
        self.queries = {f"q{i:03d}": self._query() for i in range(queries)}
        self.gone: dict[str, str] = {}

    def _text(self) -> str:
        # Few words, so that scores tie and the order hangs on doc_ids.
        return " ".join(self.rng.choices(WORDS[:14], k=self.rng.randint(2, 6)))

    def _query(self) -> str:
        return " ".join(self.rng.sample(WORDS[:14], 3))

    def night(self) -> None:
        """Adds, changes, deletes, re-adds and asks otherwise; sometimes nothing."""
        rng, names = self.rng, list(self.documents)
        kind = rng.choice(["few", "few", "many", "none", "deletes"])
        if kind == "none":
            return
        share = {"few": 0.02, "many": 0.2, "deletes": 0.15}[kind]
        for name in rng.sample(names, int(share * len(names))):
            if kind == "deletes" or rng.random() < 0.4:
                self.gone[name] = self.documents.pop(name)
            else:
                self.documents[name] = self._text()
        if kind != "deletes":
            for _ in range(int(share * len(names))):
                back = rng.random() < 0.3 and self.gone
                name = rng.choice(sorted(self.gone)) if back else f"d{rng.randrange(9999):04d}"
                self.documents[name] = self.gone.pop(name, None) or self._text()
        for name in rng.sample(list(self.queries), 2):
            self.queries[name] = self._query()
        if rng.random() < 0.5:
            self.queries.pop(rng.choice(list(self.queries)))
            self.queries[f"q{rng.randrange(999):03d}"] = self._query()

    def write(self) -> None:
        """In another order and other files every night."""
        rows = [{"_id": name, "text": text} for name, text in self.documents.items()]
        self.rng.shuffle(rows)
        cut = self.rng.randrange(len(rows) + 1)
        write_jsonl(self.folder / "corpus" / "a.jsonl", rows[:cut])
        write_jsonl(self.folder / "corpus" / "b.jsonl", rows[cut:])
        asked = [{"_id": name, "text": text} for name, text in self.queries.items()]
        write_jsonl(self.folder / "queries.jsonl", asked)

    def config(self, root: Path, **sections: Any) -> dict[str, Any]:
        base = Collection.config(self, root, **sections)  # type: ignore[arg-type]
        base["corpus"]["path"] = str(self.folder / "corpus")
        base["evaluate"] = {}
        kept = {"retrain_fraction": 1e9, "audit_nights": 4, **NO_DRIFT}
        base["nightly"] = {**kept, **base.get("nightly", {})}
        return base


def same_template(source: Path, target: Path) -> None:
    """A lake without documents that has the other's index template: what a full rebuild starts
    from.

    Word statistics and coarse lists are frozen with a template, so results are compared under one.
    """
    old, new = open_lake(str(source), "tiny"), Store(f"{target}/tiny")
    entry = Log(old, "index").read(1)
    path = entry.body["template"]["path"]
    for folder in (f"{path}/_data", f"{path}/_done"):
        for name in old.files(folder):
            new.put_if_absent(f"{folder}/{name}", old.read(f"{folder}/{name}"))
    new.put_if_absent(f"{path}/manifest.json", old.read(f"{path}/manifest.json"))
    body = {**entry.body, "segments": [], "tombstones": [], "next_segment": 0, "corpus_id": ""}
    new.put_if_absent(f"index/_log/{1:020d}.json", seal(body))
