"""Which column names are reserved: one rule for attributes, document columns and rerank steps.

Names are compared without regard to letter case, as DuckDB, Spark and Hive compare them: they
cannot read a table with the columns `Rank` and `rank`.
"""

from __future__ import annotations

from collections.abc import Iterable

# Columns of all tables with attributes, and of tables derived from those.
OWN = frozenset(
    {
        *("id", "doc_id", "title", "text", "content_hash", "row"),
        *("query_id", "query_hash", "vertical", "query"),
        *("ordinal", "rank", "score", "rerank_score", "first_stage_rank", "first_stage_score"),
        *("first_stage_dense_score", "first_stage_bm25_score"),
        *("status", "reason", "num_candidates", "policy"),
        # Of a change feed. Reserved in every input: stages recognise a feed by these names.
        *("op", "sequence"),
    }
)
READERS = {
    "run_date": "the partition column of the Hive export",
    # https://iceberg.apache.org/spec/#reserved-field-ids; Spark refuses a table that has one.
    **dict.fromkeys(
        ("_file", "_pos", "_deleted", "_spec_id", "_partition", "_row_id")
        + ("_last_updated_sequence_number", "_change_type", "_change_ordinal")
        + ("_commit_snapshot_id",),
        "a metadata column of Apache Iceberg",
    ),
    # pyarrow's datasets add these: `read_results(...).to_table()` fails on a second one.
    **dict.fromkeys(
        ("__filename", "__fragment_index", "__batch_index", "__last_in_fragment"),
        "a column that pyarrow adds to every dataset",
    ),
}


def check_attributes(names: Iterable[str], steps: Iterable[str] = ()) -> None:
    """Refuses attributes whose names are reserved or repeated.

    Args:
        names: attributes of one input.
        steps: names of the rerank steps, each of which has a column `<step>_score`.

    Raises:
        ValueError: names the attribute and what reserves its name.
    """
    scores = {score_column(step): step for step in steps}
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if not name.strip():
            raise ValueError("attributes: a name is empty")
        if folded in OWN:
            reserved = "one of Nightrank's columns"
        elif folded in READERS:
            reserved = READERS[folded]
        elif folded in scores:
            reserved = f"the score of the rerank step {scores[folded]!r}"
        elif folded in seen:
            what = f"attributes: {seen[folded]!r} and {name!r} differ only in letter case"
            raise ValueError(f"{what}; DuckDB, Spark and Hive read them as one: rename one")
        else:
            seen[folded] = name
            continue
        raise ValueError(
            f"attributes: {name!r} is {reserved} (in any letter case); rename the column"
        )


def check_steps(names: list[str]) -> None:
    """Refuses rerank steps whose names repeat, or whose column `<step>_score` exists already.

    Raises:
        ValueError: names the step.
    """
    for number, name in enumerate(names):
        # A single step has no such column, and its default name is `rerank`.
        if score_column(name) in OWN and (len(names) > 1 or name != "rerank"):
            what = f"rerank[{number}].name: {name!r} would give a second column {name}_score"
            raise ValueError(f"{what}; choose another name")
        if name in names[:number]:
            what = f"rerank[{number}].name: {name!r} is the name of an earlier step"
            raise ValueError(f"{what}; every step needs its own name")


def score_column(step: str) -> str:
    """The column of one of several steps in the ranked rows."""
    return f"{step}_score"
