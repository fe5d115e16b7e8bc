"""Finds the needed columns of a CSV or TSV file, by its header or by the config."""

from __future__ import annotations

from collections.abc import Sequence

from nightrank.config.schema import Source
from nightrank.inputs.raw import BadFile, Wanted

QUOTE = '"'


def column_places(first: Sequence[str] | None, wanted: Wanted, source: Source) -> dict[str, int]:
    """Positions of the needed columns; blanks around a name are ignored.

    A message quotes a field of the file only if one of the expected names is among the fields: a
    file without a header begins with a document.

    Args:
        first: the fields of the file's first line; None for an empty file.
        wanted: the needed columns.
        source: `header` names the columns of a file that has no header line.

    Returns:
        Positions from 0, by our names.

    Raises:
        BadFile: a column is missing or occurs twice; the file has no header and none is configured,
            or it has one although one is configured.
    """
    names = [name.strip() for name in first or ()]
    if source.header:
        if _is_header(names, wanted):
            what = f"{wanted.kind}.header is set, but the first line is a header itself"
            raise BadFile("unreadable_file", what, f"remove {wanted.kind}.header")
        names = [name.strip() for name in source.header]
    known = {name for candidates in wanted.names.values() for name in candidates}
    if repeated := sorted({n for n in names if n in known and names.count(n) > 1}):
        what = f"the header names {', '.join(map(repr, repeated))} more than once"
        raise BadFile("unreadable_file", what, "rename or remove all but one of these columns")
    if names and not known & set(names):
        raise _no_header(names, wanted)
    return {ours: names.index(name) for ours, name in wanted.resolve(names).items()}


def _is_header(names: Sequence[str], wanted: Wanted) -> bool:
    try:
        return bool(wanted.resolve(names))
    except BadFile:
        return False


def _no_header(names: Sequence[str], wanted: Wanted) -> BadFile:
    """The error for a first line without any known name; the line may be a document."""
    unquoted = [name[1:-1] for name in names if len(name) > 1 and name[0] == name[-1] == QUOTE]
    if _is_header(unquoted, wanted):
        what = "the names in the header are in double quotes, which are part of a name in TSV"
        return BadFile("unreadable_file", what, "write TSV without quotes, or write CSV")
    columns = ", ".join(wanted.spelt(ours) for ours in wanted.names if ours in wanted.required)
    fields = "1 field" if len(names) == 1 else f"{len(names)} fields"
    what = (
        f"the file seems to have no header: expected the columns {columns} in its first line, "
        f"found {fields} without any of these names"
    )
    do = f"set {wanted.kind}.header, e.g. [id, text], or {wanted.kind}.columns; or add a header"
    return BadFile("unreadable_file", what, do)
