"""Texts of documents and queries as tokenizers read them, and the tokens that they write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from nightrank.models.text.passage import passage_texts
from nightrank.storage import schemas
from nightrank.storage.dataset import FileRef, Manifest, Payload
from nightrank.storage.reader import Reader
from nightrank.storage.tokens import Tokens

# The two kinds of text, named as the file of a shard that holds them.
Side = Literal["documents", "queries"]


@dataclass(frozen=True)
class TextRef:
    """The texts of one shard."""

    side: Side
    file: FileRef

    def read(self, read: Reader) -> pa.StringArray:
        """string[n]: a document's text is its title and text, a query's its text."""
        columns = ["title", "text"] if self.side == "documents" else ["text"]
        table = read.table(self.file, columns).combine_chunks()
        texts = table["text"].combine_chunks()
        if self.side == "documents":
            texts = passage_texts(table["title"].combine_chunks(), texts)
        return texts


def text_refs(texts: Manifest, side: Side) -> Iterator[tuple[str, TextRef]]:
    """Name and texts of every shard of a `segment`, `compact` or `distinct` dataset."""
    for shard in texts.shards:
        yield shard.shard, TextRef(side, shard.files[side])


def token_payload(tokens: Tokens) -> Payload:
    """A shard of `tokens`, with their counts."""
    content = pa.table([tokens.to_arrow()], schema=schemas.TOKENS)
    return Payload(
        {"tokens": content}, {"rate_rows": len(tokens), "tokens": int(tokens.offsets[-1])}
    )
