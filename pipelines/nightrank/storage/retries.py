"""When a failed request is sent again: full jitter, few tries, and a retry budget of the process.

A limit of tries alone does not protect a store: a thousand requests that fail eight times each are
eight thousand requests. A token bucket does. A retry takes one token and a successful request adds
a tenth of one, so that at most a tenth of a long run's requests are retries; a full bucket carries
a short run, or a burst, through an outage.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, fields
from typing import Any

from nightrank.errors import NightrankError

FIRST_SECONDS = 0.1
# Waits of at most 0.1, 0.8, 6.4, 20, 20 ... seconds: a single fault costs 0.05 s, and 0.06 % of the
# requests in an outage of 10 s give up. With doubled waits 96 % of them would.
GROWTH = 8


@dataclass(frozen=True)
class Limits:
    """The retry limits of a process; `storage_options: {retry: {...}}`.

    Attributes:
        tries: the most times that one request is sent.
        cap_seconds: the longest wait between two tries.
        share: tokens (retries) that a successful request adds.
        burst: tokens at the start, and the most that the bucket holds.
    """

    tries: int = 8
    cap_seconds: float = 20.0
    share: float = 0.1
    burst: int = 200

    @staticmethod
    def of(plain: Any) -> Limits:
        """Limits from plain data of a config.

        Raises:
            NightrankError: E_CONFIG for an unknown key or a value out of range.
        """
        known = {field.name for field in fields(Limits)}
        where, do = "storage_options.retry", f"known keys: {', '.join(sorted(known))}"
        if not isinstance(plain, dict) or not set(plain) <= known:
            wrong = sorted(set(plain) - known) if isinstance(plain, dict) else repr(plain)
            raise NightrankError("E_CONFIG", f"expected retry limits, found {wrong}", where, do)
        for key, value in plain.items():
            least = 1 if key == "tries" else 0
            whole = isinstance(value, int) and not isinstance(value, bool)
            fits = whole or (isinstance(value, float) and key in ("cap_seconds", "share"))
            if not fits or not least <= value <= 1e6:
                what = f"expected a number of at least {least}, found {value!r}"
                raise NightrankError("E_CONFIG", what, f"{where}.{key}")
        return Limits(**plain)


class Retries:
    """The retry budget of one process under one set of limits; used from one event loop.

    Attributes:
        requests: requests that succeeded.
        retries: requests that were sent again.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.requests = self.retries = 0
        self._tokens = float(limits.burst)

    def succeeded(self) -> None:
        """Counts a request that was answered."""
        self.requests += 1
        self._tokens = min(float(self.limits.burst), self._tokens + self.limits.share)

    def wait(self, tries: int) -> float | None:
        """Seconds to wait before a request that failed `tries` times is sent again.

        Returns:
            The wait, drawn uniformly from 0 to its limit (full jitter); None where the request has
            used all its tries or the budget is spent.
        """
        if tries >= self.limits.tries or self._tokens < 1:
            return None
        self._tokens -= 1
        self.retries += 1
        longest = FIRST_SECONDS * GROWTH ** (tries - 1)
        return random.uniform(0, min(self.limits.cap_seconds, longest))

    def exhausted(self, tries: int) -> str:
        """Why there is no further try, for a message."""
        if tries >= self.limits.tries:
            return f"gave up after {tries} tries"
        return f"gave up: {self.retries} retries for {self.requests} answers spent the budget"


@functools.cache
def retries_of(limits: Limits) -> Retries:
    """The budget that all filesystems of this process with these limits share."""
    return Retries(limits)
