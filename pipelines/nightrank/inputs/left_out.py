"""Files of an input's folder that are not read: their number, the reasons, and refusals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nightrank.errors import NightrankError, printable
from nightrank.inputs.listing import COMPRESSIONS, FORMATS, KNOWN

# Why a file is left out, in the order of messages.
REASONS = {
    "ignored": "named by `ignore`",
    "hidden": "hidden (a name that starts with _ or .)",
    "other_format": "of another format than `format`",
    "sidecar": "accompanying the data (README, LICENSE, checksums)",
    "empty": "empty and of no known format",
    "repeated": "read under another name",
    "cycle": "linked to a folder above",
    "folder": "a folder that the glob matches",
    "other": "a pipe, socket or device",
}
SIDECAR_NAMES = {
    *("readme", "license", "licence", "copying", "notice", "changelog", "citation", "authors"),
    *("sha256sums", "sha512sums", "sha1sums", "md5sums"),
}
SIDECAR_SUFFIXES = {"md", "rst", "crc", "md5", "sha1", "sha256", "sha512", "asc", "sig"}
PLAIN_TEXT = {"", "txt", "html", "cff"}


@dataclass
class LeftOut:
    """Files that are not read, by reason.

    Attributes:
        counts: by a key of `REASONS`.
        examples: the first name, by the same keys.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Counts a file."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.examples.setdefault(reason, name)

    @property
    def total(self) -> int:
        """The number of files left out."""
        return sum(self.counts.values())

    def describe(self) -> str:
        """Counts in one line, with an example of each reason; empty if there are none."""
        parts = [
            f"{self.counts[reason]} {words}, e.g. {printable(self.examples[reason])}"
            for reason, words in REASONS.items()
            if reason in self.counts
        ]
        return f"{self.total} left out: {'; '.join(parts)}" if parts else ""


@dataclass
class Unreadable:
    """Names of files that cannot be read and that `ignore` does not match.

    Attributes:
        broken: links to missing files.
        unknown: files of an unknown format.
        no_file: pipes, sockets and devices.
    """

    broken: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    no_file: list[str] = field(default_factory=list)

    def refuse(self) -> None:
        """Refuses an input that has such files.

        Raises:
            NightrankError: E_EMPTY for a link to a missing file, E_SCHEMA for the others.
        """
        if self.broken:
            what = f"{_counted(self.broken, 'link')} to a file that does not exist"
            do = f"restore it, remove the link, or {_how_to_ignore(self.broken)}"
            raise NightrankError("E_EMPTY", what, printable(self.broken[0]), do)
        if self.unknown:
            what = f"{_counted(self.unknown, 'file')} of a format not known by its suffix"
            do = f"convert or rename to one of {KNOWN}, set format and a glob, or "
            do += _how_to_ignore(self.unknown)
            raise NightrankError("E_SCHEMA", what, printable(self.unknown[0]), do)
        if self.no_file:
            what = f"{_counted(self.no_file, 'pipe, socket or device')} among the files"
            do = _how_to_ignore(self.no_file)
            raise NightrankError("E_SCHEMA", what, printable(self.no_file[0]), do)


def is_sidecar(name: str) -> bool:
    """Whether a file accompanies data, by its name; never one of a known format."""
    stem, _, suffix = name.rpartition("/")[2].lower().partition(".")
    if stem in SIDECAR_NAMES and suffix in PLAIN_TEXT:
        return True
    return suffix.rpartition(".")[2] in SIDECAR_SUFFIXES


def _counted(names: Iterable[str], kind: str) -> str:
    count = len(list(names))
    return f"1 {kind}" if count == 1 else f"{count} {kind}s"


def _how_to_ignore(names: list[str]) -> str:
    """How to leave out the first of these files, and others with its suffix."""
    name = printable(names[0].rpartition("/")[2])
    suffix = name.rpartition(".")[2] if "." in name else ""
    by_suffix = suffix and suffix.lower() not in {*COMPRESSIONS, *FORMATS}
    return f"leave it out by ignore: ['{f'*.{suffix}' if by_suffix else name}']"
