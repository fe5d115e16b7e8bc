"""A lake of several runs, each published on a day of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pyiceberg.utils.config import Config

from nightrank.storage.sealed import seal, unseal
from tests.support.collection import Collection, write_jsonl
from tests.support.lake import run

DAYS = ("2026-01-30", "2026-01-31")


@dataclass
class Nights:
    """A config, its lake, and what it ranks; `publish` makes one night."""

    folder: Path
    root: str
    collection: Collection
    config: str

    def publish(self, number: int, day: str | None = None) -> int:
        """Replaces a tenth of the documents but on the first night; returns the generation."""
        step = slice(number, None, 10) if number else slice(0, 0)
        for row in self.collection.documents[step]:
            row["text"] = " ".join(reversed(row["text"].split()[number:])) + " river"
        write_jsonl(self.collection.folder / "corpus.jsonl", self.collection.documents)
        generation = int(run(self.config)["generation"])
        if day:
            self.date(generation, day)
        return generation

    def date(self, generation: int, day: str) -> None:
        """Writes a day into the log: a night of then instead of now."""
        path = Path(self.root) / f"tiny/results/_log/{generation:020d}.json"
        body = unseal(path.read_bytes(), str(path), "")
        path.write_bytes(seal({**body, "time": f"{day}T02:00:00+00:00"}))


def make_nights(folder: Path, root: str, queries: int = 30, wordless: int = 0) -> Nights:
    """Nothing published yet; a query without a word is rejected, at most one in a thousand."""
    collection = Collection(folder / "in", documents=200, queries=queries)
    for number in range(wordless):
        collection.queries.append({"_id": f"w{number}", "text": "???", "vertical": "legal"})
    write_jsonl(collection.folder / "queries.jsonl", collection.queries)
    plain: dict[str, Any] = collection.config(root, retrieve={"depth": 10}, rerank={"depth": 10})
    (folder / "c.yaml").write_text(json.dumps(plain))
    return Nights(folder, root, collection, str(folder / "c.yaml"))


def catalog_in(folder: Path, name: str, patch: pytest.MonkeyPatch, **more: str) -> None:
    """Describes an Iceberg catalog in SQLite by environment variables, as users do."""
    settings = {"uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/warehouse"}
    for key, value in {**settings, **more}.items():
        patch.setenv(f"PYICEBERG_CATALOG__{name}__{key}".upper(), value)
    # pyiceberg reads the environment once, when it is imported.
    patch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
