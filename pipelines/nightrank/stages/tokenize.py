"""Tokenises every document and distinct query once per tokenizer.

In: documents or distinct queries. Out: `tokens`, row for row, without special tokens. Cardinality:
one shard per shard. Knows nothing about: pairs, prompts, batches.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.datasets.texts import Side, TextRef, text_refs, token_payload
from nightrank.models.protocols import ResolvedModel, Tokenizer
from nightrank.models.registry import load_tokenizer
from nightrank.models.stored import on_this_node
from nightrank.runtime.identity import outside_identity
from nightrank.runtime.stage import Declaration, Task
from nightrank.storage import schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.reader import Reader


@dataclass(frozen=True)
class Inputs:
    """Texts of the documents or the queries, and whose tokenizer.

    Models of one tokenizer share its tokens.
    """

    texts: Manifest
    side: Side
    tokenizer: str
    model: ResolvedModel = outside_identity()

    @staticmethod
    def of(texts: Manifest, side: Side, model: ResolvedModel) -> Inputs:
        """The inputs for a model."""
        return Inputs(texts, side, model.tokenizer, model)


def tasks(inputs: Inputs) -> list[Task[TextRef]]:
    """One task per shard of texts."""
    return [Task(name, ref) for name, ref in text_refs(inputs.texts, inputs.side)]


class Worker:
    """Holds a tokenizer."""

    def __init__(self, settings: ResolvedModel, threads: int) -> None:
        self._model = settings
        self._tokenizer: Tokenizer | None = None

    def __call__(self, task: Task[TextRef], read: Reader) -> Payload:
        """A document's text is its title and text, as the models were trained to see it."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(on_this_node(self._model, read))
        return token_payload(self._tokenizer(task.args.read(read)))


STAGE = Declaration(
    name="tokenize",
    version=1,
    pool="model",
    scales_with="texts",
    tasks=tasks,
    worker=Worker,
    settings=lambda inputs: inputs.model,
    schemas=lambda inputs: {"tokens": schemas.TOKENS},
)
