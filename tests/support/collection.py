"""A made-up collection: documents of random words, queries cut from them, judgements."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

COLLECTIONS = Path(__file__).resolve().parents[3] / "shared" / "data"

VOCABULARY = """
river bank loan interest court appeal heart valve surgery trial engine wing lift drag protein cell
gene therapy bond yield market crash storm flood solar panel battery charge index shard query
document rank score model token vector cluster worker driver record manifest log
"""

WORDS = VOCABULARY.split()


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Collection:
    """A made-up collection: documents of random words, queries cut from documents, qrels."""

    def __init__(self, folder: Path, documents: int, queries: int, seed: int = 7) -> None:
        rng = random.Random(seed)
        self.folder = folder
        self.documents = [
            {
                "_id": f"d{i:05d}",
                "title": " ".join(rng.choices(WORDS, k=2)),
                "text": " ".join(rng.choices(WORDS, k=rng.randint(5, 40))),
                "year": 1990 + i % 30,
            }
            for i in range(documents)
        ]
        sources = [rng.randrange(documents) for _ in range(queries)]
        self.queries = []
        for i, source in enumerate(sources):
            words = self.documents[source]["text"].split()
            text = " ".join(rng.sample(words, min(4, len(words))))
            vertical = "legal" if i % 2 else "medical"
            self.queries.append({"_id": f"q{i:04d}", "text": text, "vertical": vertical})
        self.qrels = [(f"q{i:04d}", f"d{s:05d}", 1) for i, s in enumerate(sources)]
        write_jsonl(folder / "corpus.jsonl", self.documents)
        write_jsonl(folder / "queries.jsonl", self.queries)
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, q)) for q in self.qrels)]
        (folder / "qrels.tsv").write_text("\n".join(lines) + "\n")

    def config(self, root: str | Path, **sections: Any) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "name": "tiny",
            "root": str(root),
            "corpus": {"path": str(self.folder / "corpus.jsonl")},
            "queries": {"path": str(self.folder / "queries.jsonl")},
            "encoder": {"model": "toy:bag-of-words"},
            "index": {"factory": "Flat"},
            "retrieve": {"depth": 20},
            "rerank": {"model": "toy:overlap", "depth": 20},
            "results": {"keep": 5},
            "evaluate": {"qrels": str(self.folder / "qrels.tsv")},
            "cluster": {"executor": "serial"},
        }
        for name, section in sections.items():
            if isinstance(section, dict) and isinstance(plain.get(name), dict):
                plain[name] = {**plain[name], **section}
            else:
                plain[name] = section
        return plain
