"""What share of judgements is known, in words."""

import pyarrow as pa
import pytest

from nightrank.evaluation.coverage import Coverage, describe


def covered(known, kind="documents", judged=None, known_id="doc-1"):
    ids = pa.array([str(i) for i in range(len(known))])
    flags = pa.array(known, pa.bool_())
    return Coverage.of(kind, judged or len(known), ids, flags, known_id)


@pytest.mark.parametrize(
    ("one", "warning"),
    [
        (
            covered([False, False]),
            "none of the 2 judged documents is in the corpus: compare the ids, e.g. '0' against "
            "'doc-1'",
        ),
        (covered([False], "queries", known_id=""), "none of the 1 judged queries is among the"),
        (covered([True, False, False]), "only 1 of the 3 judged documents are in the corpus"),
        (
            covered([False] * 4, judged=5000),
            "none of the 4 looked up of the 5,000 judged documents is in the corpus",
        ),
        (covered([False], known_id="a\n" + "x" * 99), "xxx…'"),
    ],
)
def test_few_known_ids_are_one_line(one, warning):
    assert warning in one.warning and "\n" not in one.warning
    assert Coverage.from_dict(one.to_dict()) == one
    assert describe([one])[1] == f"warning: {one.warning}"


@pytest.mark.parametrize("known", [[True], [True, False], [True] * 3])
def test_half_of_them_is_enough(known):
    one = covered(known)
    assert one.warning == "" and len(describe([one])) == 1
    assert describe([one])[0].startswith(f"{sum(known)} of {len(known)} judged documents in")
