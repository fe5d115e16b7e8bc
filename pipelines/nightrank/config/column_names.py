"""Which column names are taken: one rule for attributes, document columns and rerank steps.

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
        names: the attributes of one input.
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
            taken = "one of Nightrank's columns"
        elif folded in READERS:
            taken = READERS[folded]
        elif folded in scores:
            taken = f"the score of the rerank step {scores[folded]!r}"
        elif folded in seen:
            both = f"attributes: {seen[folded]!r} and {name!r} differ only in letter case"
            raise ValueError(f"{both}; DuckDB, Spark and Hive read them as one: rename one")
        else:
            seen[folded] = name
            continue
        raise ValueError(f"attributes: {name!r} is {taken} (in any letter case); rename the column")


def check_steps(names: list[str]) -> None:
    """Refuses rerank steps whose column `<step>_score` exists already.

    Raises:
        ValueError: says which step.
    """
    for number, name in enumerate(names):
        # Of one step alone there is no such column, and `rerank` is what it is called by default.
        if score_column(name) in OWN and (len(names) > 1 or name != "rerank"):
            what = f"rerank[{number}].name: {name!r} would give a second column {name}_score"
            raise ValueError(f"{what}; choose another name")
        if name in names[:number]:
            what = f"rerank[{number}].name: {name!r} is the name of an earlier step"
            raise ValueError(f"{what}; every step needs its own name")


def score_column(step: str) -> str:
    """The column of one of several steps in the ranked rows."""
    return f"{step}_score"
