"""Which column names are taken: one rule for attributes, document columns and rerank steps.

Names are compared without regard to letter case, as DuckDB, Spark and Hive compare them: a table
that holds `Rank` beside `rank` cannot be read there.
"""

from __future__ import annotations

from collections.abc import Iterable

# Columns of every table that also holds attributes, or that is made from one that does.
OWN = frozenset(
    {
        *("id", "doc_id", "title", "text", "content_hash", "row"),
        *("query_id", "query_hash", "vertical", "query"),
        *("ordinal", "rank", "score", "rerank_score", "first_stage_rank", "first_stage_score"),
        *("first_stage_dense_score", "first_stage_bm25_score"),
        *("status", "reason", "num_candidates", "policy"),
        # Of a change feed. Taken in any input: what a column is is seen from its name.
        *("op", "sequence"),
    }
)
READERS = {
    "run_date": "the partition column of the Hive export",
    # https://iceberg.apache.org/spec/#reserved-field-ids; Spark refuses a table that holds one.
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
    """Refuses attributes that cannot be a column beside Nightrank's own and beside each other.

    Args:
        names: the attributes of one input.
        steps: names of the rerank steps, each of which has a column `<step>_score`.

    Raises:
        ValueError: says which name is taken, and by what.
    """
    scores = {score_column(step): step for step in steps}
    seen: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if not name.strip():
            raise ValueError("attributes: a name is empty")
        if folded in OWN:
            taken = "a name of Nightrank's own"
        elif folded in READERS:
            taken = READERS[folded]
        elif folded in scores:
            taken = f"the score of the rerank step {scores[folded]!r}"
        elif folded in seen:
            both = f"attributes: {seen[folded]!r} and {name!r} differ in letter case alone"
            raise ValueError(f"{both}; DuckDB, Spark and Hive read them as one: rename one")
        else:
            seen[folded] = name
            continue
        raise ValueError(f"attributes: {name!r} is {taken} (in any letter case); rename the column")


def check_steps(names: list[str]) -> None:
    """Refuses rerank steps whose column `<step>_score` is another's.

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
            raise ValueError(f"{what}; every step needs a name of its own")


def score_column(step: str) -> str:
    """The column of one of several steps in the ranked rows."""
    return f"{step}_score"
