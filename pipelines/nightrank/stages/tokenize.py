"""Tokenises every document and distinct query once per tokenizer, a model's or BM25's.

In: documents or distinct queries. Out: `tokens`, row for row, without special tokens. Cardinality:
one shard per shard. Knows nothing about: pairs, prompts, batches.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from nightrank.models.protocols import ResolvedModel, Tokenizer
from nightrank.models.registry import load_tokenizer
from nightrank.models.stored import on_this_node
from nightrank.models.text.passage import passage_texts
from nightrank.retrieval.terms import Analyzer
from nightrank.runtime.stage import Stage, Task, WorkerSpec
from nightrank.storage import schemas
from nightrank.storage.dataset import Manifest, Payload
from nightrank.storage.reader import Reader

VERSION = 1


def plan(texts: Manifest, file: str) -> tuple[Task, ...]:
    """One task per shard of texts."""
    return tuple(Task(shard.shard, {"texts": shard.files[file]}) for shard in texts.shards)


class Worker:
    """Holds a tokenizer."""

    def __init__(self, config: dict[str, Any], threads: int) -> None:
        self._config, self._columns = config, config["columns"]
        self._tokenizer: Tokenizer | None = None

    def _opened(self, read: Reader) -> Tokenizer:
        if self._tokenizer is None and "language" in self._config:
            self._tokenizer = Analyzer(self._config["language"])
        elif self._tokenizer is None:
            model = ResolvedModel.from_dict(self._config["model"])
            self._tokenizer = load_tokenizer(on_this_node(model, read))
        return self._tokenizer

    def __call__(self, task: Task, read: Reader) -> Payload:
        """A document's text is its title and text, as the models were trained to see it."""
        table = read.table(task.args["texts"], self._columns).combine_chunks()
        texts = table["text"].combine_chunks()
        if "title" in self._columns:
            texts = passage_texts(table["title"].combine_chunks(), texts)
        tokens = self._opened(read)(texts)
        content = pa.table([tokens.to_arrow()], schema=schemas.TOKENS)
        stats = {"rate_rows": len(tokens), "tokens": int(tokens.offsets[-1])}
        return Payload({"tokens": content}, stats)


def stage(dataset: str, kind: str, texts: Manifest, model: ResolvedModel) -> Stage:
    """Assembles the stage for documents or queries."""
    return _stage(
        dataset, kind, texts, f"tokenize {kind}", model.tokenizer, {"model": model.to_dict()}
    )


def terms_stage(dataset: str, kind: str, texts: Manifest, language: str) -> Stage:
    """Assembles the stage that makes BM25's terms of documents or queries."""
    name = f"terms of {kind}"
    return _stage(dataset, kind, texts, name, f"terms-1:{language}", {"language": language})


def _stage(
    dataset: str, kind: str, texts: Manifest, name: str, tokenizer: str, config: dict[str, Any]
) -> Stage:
    columns = ["title", "text"] if kind == "documents" else ["text"]
    return Stage(
        name=name,
        version=VERSION,
        dataset=dataset,
        identity={"of": texts.path, "tokenizer": tokenizer},
        tasks=plan(texts, kind),
        worker=WorkerSpec(Worker, {"columns": columns, **config}),
        schemas={"tokens": schemas.TOKENS},
        pool="model",
    )
