"""What ended a worker process or a unit on Ray, as errors of one line."""

from __future__ import annotations

from nightrank.errors import NightrankError

# Before Ray itself: it sets the environment that Ray reads at import.
from nightrank.runtime.ray_cluster import first_line

# isort: split
from ray.exceptions import OutOfMemoryError, RayError


def worker_death(error: RayError, where: str) -> NightrankError:
    """E_OOM where Ray's memory monitor killed the process, before the kernel does; else E_CLUSTER.

    Args:
        error: what Ray raised.
        where: stage and shard.
    """
    if isinstance(error, OutOfMemoryError):
        what = "worker process killed: its node ran out of memory"
        do = "give its pool more memory_bytes, or fewer workers per node"
        return NightrankError("E_OOM", what, where, do)
    what = f"worker process died: {first_line(error)}"
    return NightrankError("E_CLUSTER", what, where, "check memory and Ray's logs")


def no_input_to_blame(reason: str, where: str) -> NightrankError:
    """E_CLUSTER: worker processes died, and no input alone is the cause.

    Args:
        reason: why the search gave up, `Bisection.gave_up`.
        where: stage and shard.
    """
    what = f"worker processes died, but {reason}"
    return NightrankError("E_CLUSTER", what, where, "check memory and Ray's logs")


def overdue(seconds: float, where: str) -> NightrankError:
    """E_DEADLINE: a unit has not ended in time.

    Args:
        seconds: the limit.
        where: stage and shard.
    """
    do = "raise cluster.deadline_seconds if units take that long"
    return NightrankError("E_DEADLINE", f"no end after {seconds:.0f} s", where, do)


def no_worker(stage: str, pool: str, shape: object, reason: str) -> NightrankError:
    """E_CLUSTER: no worker of a pool has started.

    Args:
        stage: what waits for it.
        pool: the pool's name.
        shape: what a worker reserves.
        reason: what is known of the cause.
    """
    do = "check the cluster's nodes, cluster.pools and Ray's logs"
    what = f"no worker for {stage}: {reason}"
    return NightrankError("E_CLUSTER", what, f"pool {pool}, {shape}", do)
