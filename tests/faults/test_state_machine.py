"""Any sequence of publications, kills, rollbacks, collections and damage, against a plain model."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from nightrank.errors import NightrankError
from nightrank.generations import retention, rollbacks
from nightrank.storage import expiry
from nightrank.storage.log import Log
from nightrank.storage.store import Store
from tests.support.protocol import publish, read

# The same ones everywhere; others, and more of them, when asked for: NIGHTRANK_EXAMPLES=1000.
ASKED = os.environ.get("NIGHTRANK_EXAMPLES")
LOCAL = int(ASKED or 50)
MONTH = 30 * 86_400
SETTINGS = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "derandomize": ASKED is None,
}


class Killed(BaseException):
    """The process ended here; nothing after it happens."""


class Mortal(Store):
    """A store whose process dies at its n-th operation: before it, or just after."""

    left, after = 0, False

    def dies(self, left: int, after: bool) -> None:
        self.left, self.after = left, after

    @contextlib.contextmanager
    def _operation(self) -> Iterator[None]:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Killed
        yield
        if self.left == 0:
            raise Killed

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._operation():
            return super().put_if_absent(key, data)

    def write(self, *arguments: Any, **more: Any) -> tuple[int, str]:
        with self._operation():
            return super().write(*arguments, **more)


class Lake(RuleBasedStateMachine):
    """The model: the log as a list, and for every unfinished plan the number it was planned at."""

    base = ""
    plans = Bundle("plans")

    @initialize()
    def empty(self) -> None:
        self.store = Mortal(f"{self.base}/{uuid.uuid4().hex}")
        self.begun = 0
        # The plan of every number taken; empty for a condemnation and for a rollback's end.
        self.log: list[str] = []
        self.held = False  # A rollback is in force.
        self.marks: dict[str, int] = {}  # By plan, what its plan.json says.
        self.current: str | None = None
        self.mark = 0  # Of the current entry.
        self.kept: list[int] = []  # Numbers that no collection has given up.
        self.given_up: dict[str, int] = {}

    @rule(
        target=plans,
        old=st.none() | consumes(plans),
        left=st.integers(-12, 20),
        after=st.booleans(),
        forced=st.booleans(),
    )
    def run(self, old: str | None, left: int, after: bool, forced: bool) -> Any:
        """Runs a new plan or resumes one; killed at an operation where `left` is above 0."""
        if not old:
            self.begun += 1
        # Not by chance: a collection that is cut short deletes in the order of names, and what
        # Hypothesis tries again must come out again.
        plan = old or f"{self.begun * 0x9E3779B9 % 2**32:012x}"
        mark = self.marks.setdefault(plan, len(self.log))
        done = plan == self.current
        stale = self.current is not None and self.mark > mark
        condemned = self.given_up.get(plan, 0) > mark
        held = self.held and not forced
        self.store.dies(left, after)
        try:
            entry = publish(self.store.url, plan, self.store, forced)
        except Killed:
            self._look(plan)
            return plan
        except NightrankError as error:
            expected = "E_GATE" if held else "E_STALE" if stale else "E_CONDEMNED"
            assert error.code == expected and (held or stale or condemned), error
            return multiple()
        assert done or not (held or stale or condemned), f"{plan} was published"
        if not done:
            assert entry.generation == len(self.log) + 1
            self._published(plan, mark)
        assert entry.body["plan_id"] == plan
        return multiple()

    def _look(self, plan: str) -> None:
        """After a kill: how far it came."""
        if not self.store.exists(f"results/{plan}.0/plan.json"):
            self.marks.pop(plan)
        if len(Log(self.store, "results").generations()) > len(self.log):
            self._published(plan, self.marks[plan])

    def _published(self, plan: str, mark: int) -> None:
        self.log.append(plan)
        self.kept.append(len(self.log))
        self.current, self.mark, self.held = plan, mark, False

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        """An older state again: nothing that was planned before, nor that is, replaces it."""
        self.store.dies(0, False)
        number = data.draw(st.sampled_from(self.kept))
        made = rollbacks.roll_back(self.store, str(number), "wrong")
        assert made.generation == len(self.log) + 1
        self._published(made.body["plan_id"], made.generation)
        self.held = True

    @precondition(lambda self: self.log)
    @rule()
    def resume(self) -> None:
        """The end of a rollback; without one nothing happens."""
        self.store.dies(0, False)
        assert (rollbacks.resume(self.store) is not None) == self.held
        self.log += [""] * self.held
        self.held = False

    @precondition(lambda self: self.log)
    @rule(retain=st.integers(1, 3), ends=st.sampled_from(["", "claimed", "half", "before"]))
    def collect(self, retain: int, ends: str) -> None:
        """A month later; killed before its number, between number and deletion, or in that."""
        self.store.dies({"before": 2, "claimed": 3}.get(ends, 0), ends == "claimed")
        newest = dict.fromkeys(plan for plan in reversed(self.log) if plan)
        spared = set(list(newest)[:retain])  # As many different states.
        steps = [0]

        def deleting(store: Store, keys: list[str]) -> None:
            steps[0] += 1
            expiry.delete(store, keys[: len(keys) // 2] if ends == "half" else keys)
            if ends == "half":
                raise Killed

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                retention,
                "clock",
                lambda store: expiry.clock(Store(store.url, store.options)) + MONTH,
            )
            patched.setattr(retention, "delete", deleting)
            with contextlib.suppress(Killed):
                retention.collect(self.store, retain, min_age_days=7)
        log = Log(self.store, "results")
        if log.last() > len(self.log):
            self.log.append("")
            for path in log.read(log.last()).body["condemned"]:
                plan = path.split("/")[1].removesuffix(".0")
                assert plan not in spared, f"{path} is still needed"
                if path.count("/") == 2:  # A run's plan alone is nothing that is published.
                    self.given_up[plan] = len(self.log)
        self.kept = [n for n in self.kept if self.log[n - 1] not in self.given_up]
        for plan in [p for p in self.marks if not self.store.exists(f"results/{p}.0/plan.json")]:
            self.marks.pop(plan)

    @precondition(lambda self: self.kept and not self.store.remote)
    @rule(data=st.data(), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
    def flip(self, data: st.DataObject, place: float, bit: int) -> None:
        """One bit of a published file: its readers are told, and read again once it is mended."""
        entry = Log(self.store, "results").read(data.draw(st.sampled_from(self.kept)))
        file = data.draw(st.sampled_from(entry.body["files"]["ranked"]))
        path = self.store.path(file["key"])
        with open(path, "rb") as there:
            good = there.read()
        bad = bytearray(good)
        bad[int(place * len(bad))] ^= 1 << bit
        with open(path, "wb") as there:
            there.write(bad)
        with pytest.raises(NightrankError, match="E_CORRUPT.*sha256"):
            read(self.store, entry)
        with open(path, "wb") as there:
            there.write(good)

    @invariant()
    def reads(self) -> None:
        """What is current is what the model says, and every kept generation holds its rows."""
        if not hasattr(self, "log"):
            return
        log = Log(self.store, "results")
        assert log.generations() == list(range(1, len(self.log) + 1))
        found = read(self.store)
        assert (found[0] if found else None) == self.current
        assert (log.in_force() is not None) == self.held
        marks = [entry.body["watermark"] for entry in log.published()]
        assert marks == sorted(marks)
        for number in self.kept[-1:] if self.store.remote else self.kept[-3:]:
            assert read(self.store, log.read(number)) == (self.log[number - 1], number)


@pytest.mark.timeout(900)
def test_a_local_lake_agrees_with_its_model(tmp_path: Path) -> None:
    class Local(Lake):
        base = str(tmp_path)

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Local, settings=settings(max_examples=LOCAL, stateful_step_count=30, **SETTINGS)
    )


@pytest.mark.s3
@pytest.mark.timeout(900)
def test_a_lake_on_s3_agrees_with_its_model(s3_url: str) -> None:
    class Remote(Lake):
        base = s3_url

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Remote, settings=settings(max_examples=2, stateful_step_count=15, **SETTINGS)
    )
