"""The queue gives what a look at all waiting units would choose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nightrank.runtime.unit_queue import UnitQueue

AFFINITY = st.sampled_from(["", "a", "b", "c", "d"])
UNIT = st.tuples(AFFINITY, st.integers())


def best(waiting: list[tuple[str, int]], own: str, held: set[str]) -> str:
    """The affinity that a worker's next unit should have."""
    return min(waiting, key=lambda unit: (unit[0] != own, unit[0] in held))[0]


@given(st.lists(UNIT, max_size=30), st.lists(st.tuples(AFFINITY, st.sets(AFFINITY)), max_size=60))
def test_a_worker_stays_with_what_it_has_open_then_takes_what_nobody_holds(
    units: list[tuple[str, int]], takers: list[tuple[str, set[str]]]
) -> None:
    queue = UnitQueue(units, lambda unit: unit[0])
    waiting = list(units)
    for own, held in takers:
        assert bool(queue) == bool(waiting) and len(queue) == len(waiting)
        if not waiting:
            return
        chosen = best(waiting, own, held)
        unit = queue.take(own, held)
        assert (unit[0] == own, unit[0] in held) == (chosen == own, chosen in held)
        # Units of one affinity go in the order they came.
        assert unit == next(other for other in waiting if other[0] == unit[0])
        waiting.remove(unit)


def test_a_unit_that_comes_back_is_first_or_last_of_its_kind() -> None:
    queue = UnitQueue([("a", 1), ("a", 2), ("b", 3)], lambda unit: unit[0])
    queue.append(("a", 4))
    queue.appendleft(("a", 0))
    assert [queue.take("a", ()) for _ in range(5)] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("a", 4),
        ("b", 3),
    ]
    assert not queue
