"""The executor on Ray: stages run on pools of worker processes of one cluster.

`ray_stage_run` has the attempts, deadlines and accounting of one stage's units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nightrank.config.running import Cluster
from nightrank.runtime.executor import Outcome, Starting, never

# Before Ray itself: it sets the environment that Ray reads at import.
from nightrank.runtime.ray_cluster import connect
from nightrank.runtime.ray_metrics import RunMetrics
from nightrank.runtime.ray_pools import Pools
from nightrank.runtime.ray_stage_run import StageRun, Unit
from nightrank.runtime.stage import Stage, Task
from nightrank.storage.store import StoreSpec

# isort: split
from typing import Any

import ray

# A worker that takes longer to start waits for its node, and that is time of the stage.
START_SECONDS = 60.0


class RayExecutor:
    """Runs stages on a Ray cluster: the one at `cluster.address`, or one that it starts.

    Args:
        cluster: the address, the pools and the limits of attempts.

    Raises:
        NightrankError: as `connect`.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._started_here = not ray.is_initialized()
        if self._started_here:
            connect(cluster)
        self._metrics = RunMetrics()
        self._pools = Pools(cluster)
        self._has_started = False

    def start(self, stage: Stage, units: int, store: StoreSpec, starting: Starting) -> None:
        """See `Executor.start`; waits for the first worker, which has its imports to do."""
        if self._has_started:
            return
        self._has_started = True
        with starting("Ray"):
            slots = self._pools.fill(self._pools.name_of(stage), units, store)
            # `run` checks whether it is up or has died.
            ray.wait([slot.node for slot in slots], num_returns=1, timeout=START_SECONDS)

    def gpus(self) -> float:
        """See `Executor.gpus`; what the cluster has now."""
        return float(ray.cluster_resources().get("GPU", 0))

    def report_eta(self, finish: float, deadline: float | None) -> None:
        """See `Executor.report_eta`."""
        self._metrics.report_eta(finish, deadline)

    def run(
        self,
        stage: Stage,
        tasks: Sequence[tuple[Task[Any], int]],
        store: StoreSpec,
        stop: Callable[[], bool] = never,
    ) -> Iterator[Outcome]:
        """See `Executor.run`."""
        units = [Unit(task, number) for task, number in tasks]
        run = StageRun(stage, units, store, self._cluster, self._pools, self._metrics)
        yield from run.outcomes(stop)

    def close(self) -> None:
        """Kills all workers, and the cluster where it was started here."""
        if not ray.is_initialized():
            return
        self._pools.close()
        if self._started_here:
            ray.shutdown()
