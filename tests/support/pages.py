"""The documentation's pages and their code blocks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it shows (may be empty), and its text."""

    language: str
    title: str
    text: str


def page(name: str) -> str:
    """The text of a page, by its path in the repository."""
    return (REPOSITORY / name).read_text()


def pages() -> list[str]:
    """All pages, by their paths in the repository."""
    top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"]
    below = (REPOSITORY / "docs").rglob("*.md")
    return [*top, *sorted(str(path.relative_to(REPOSITORY)) for path in below)]


def fenced(text: str) -> list[Block]:
    """All blocks of a text, in order."""
    return [Block(*parts) for parts in FENCE.findall(text)]


def blocks(language: str, text: str) -> list[str]:
    """The texts of the blocks of one language, in order."""
    return [block.text for block in fenced(text) if block.language == language]


def commands(text: str) -> list[str]:
    """The lines of all `sh` blocks, without comments."""
    lines = "".join(blocks("sh", text)).splitlines()
    return [line for line in (line.split("  #")[0].strip() for line in lines) if line]
