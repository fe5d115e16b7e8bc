"""Prices and defaults of a forecast; cheap to import, for the command line's options."""

from __future__ import annotations

from dataclasses import dataclass

# Rows of each input to sample; share of the documents that an incremental run replaces.
SAMPLE_ROWS, CHANGE = 2000, 0.01


@dataclass(frozen=True)
class Prices:
    """What resources cost, in USD; None is not priced.

    Attributes:
        cpu_hour: of one CPU for an hour.
        gpu_hour: of one GPU for an hour.
        put_1000: of 1,000 PUT, LIST and similar requests.
        get_1000: of 1,000 GET and HEAD requests.
    """

    cpu_hour: float | None = None
    gpu_hour: float | None = None
    put_1000: float | None = None
    get_1000: float | None = None
