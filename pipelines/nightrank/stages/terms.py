"""Makes BM25's terms of every document and distinct query.

In: documents or distinct queries. Out: `tokens`, row for row: ids of stemmed words. Cardinality:
one shard per shard. Knows nothing about: statistics, postings, scores.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.datasets.texts import Side, TextRef, text_refs, token_payload
from nightrank.retrieval.terms import Analyzer
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Inputs:
    """Texts of the documents or the queries, and the language of their stemmer."""

    texts: Manifest
    side: Side
    language: str


def tasks(inputs: Inputs) -> list[Task[TextRef]]:
    """One task per shard of texts."""
    return [Task(name, ref) for name, ref in text_refs(inputs.texts, inputs.side)]


class Worker:
    """Holds an analyzer."""

    def __init__(self, settings: str, threads: int) -> None:
        self._analyzer = Analyzer(settings)

    def __call__(self, task: Task[TextRef], read: Reader) -> Payload:
        """A document's text is its title and text."""
        return token_payload(self._analyzer(task.args.read(read)))


STAGE = Declaration(
    name="terms",
    version=1,
    # With `tokenize`: both read the same texts, and a worker keeps them in its node's cache.
    pool="model",
    scales_with="texts",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: inputs.language,
    schemas=lambda inputs: {"tokens": schemas.TOKENS},
)
