"""The one way a document becomes the text a model reads."""

from __future__ import annotations


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
