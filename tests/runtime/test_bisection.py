"""The search for inputs that kill: finds exactly them, within its bound, and knows when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from nightrank.runtime.bisection import MAX_ASIDE, Bisection


def search(count: int, dies: Callable[[set[int]], bool]) -> tuple[Bisection, int]:
    """Follows a search to its end: a unit that went through, or one that is given up."""
    tried, deaths = Bisection(), 0
    while not tried.gave_up:
        inputs = set(range(*tried.part)) if tried.part else set(range(count)) - set(tried.aside)
        if dies(inputs):
            deaths += 1
            tried.died()
        elif tried.part:
            tried.survived(count)
        else:
            break
    return tried, deaths


@given(st.integers(1, 2000), st.data())
def test_it_sets_aside_exactly_the_inputs_that_kill(count: int, data: st.DataObject) -> None:
    positions = st.integers(0, count - 1)
    poison = data.draw(st.sets(positions, min_size=1, max_size=MAX_ASIDE))
    tried, deaths = search(count, lambda inputs: bool(inputs & poison))
    assert not tried.gave_up
    assert tried.aside == tuple(sorted(poison))
    # The whole unit dies once more for every input but the last.
    assert deaths <= len(poison) * (math.ceil(math.log2(count)) + 2)


@given(st.integers(2, 2000), st.data())
def test_one_poison_costs_no_more_deaths_than_its_bound(count: int, data: st.DataObject) -> None:
    poison = data.draw(st.integers(0, count - 1))
    _, deaths = search(count, lambda inputs: poison in inputs)
    assert deaths <= math.ceil(math.log2(count)) + 1


def test_a_worker_that_dies_whatever_it_is_given_blames_no_input() -> None:
    tried, deaths = search(64, lambda inputs: True)
    assert (tried.aside, deaths) == ((), 1) and "before its first input" in tried.gave_up


def test_a_unit_that_only_dies_of_its_size_blames_no_input() -> None:
    tried, _ = search(64, lambda inputs: len(inputs) > 3)
    assert tried.aside == () and "alone" in tried.gave_up


def test_a_unit_full_of_poison_is_given_up() -> None:
    tried, deaths = search(64, bool)
    assert len(tried.aside) == MAX_ASIDE and str(MAX_ASIDE) in tried.gave_up
    assert deaths <= MAX_ASIDE * 8
