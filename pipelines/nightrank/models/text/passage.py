"""How a document becomes the text that a model reads."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def passage_text(title: str | None, text: str | None) -> str:
    """Joins a document's title and text.

    Args:
        title: the title; None or empty when the document has none.
        text: the body; None counts as empty.

    Returns:
        ``"<title> <text>"`` without outer white space when there is a title, else the text.
    """
    body = text or ""
    return f"{title} {body}".strip() if title else body


def passage_texts(titles: pa.StringArray, texts: pa.StringArray) -> pa.StringArray:
    """`passage_text` for whole columns.

    Args:
        titles: string[n], nulls allowed.
        texts: string[n], nulls allowed.

    Returns:
        string[n].
    """
    titles, texts = pc.fill_null(titles, ""), pc.fill_null(texts, "")
    joined = pc.utf8_trim_whitespace(pc.binary_join_element_wise(titles, texts, " "))
    return pc.if_else(pc.equal(titles, ""), texts, joined)
