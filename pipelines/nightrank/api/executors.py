"""The executor that a config asks for, started when the first unit of work comes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightrank.config.running import Cluster
    from nightrank.config.schema import PipelineConfig
    from nightrank.runtime.executor import Executor, Starting


@contextlib.contextmanager
def open_executor(config: PipelineConfig) -> Iterator[Executor]:
    """The executor that the config asks for, closed at the end."""
    executor = LazyExecutor(config.cluster)
    try:
        yield executor
    finally:
        executor.close()


class LazyExecutor:
    """Starts the real executor when the first unit of work comes; a no-op run starts none."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._real: Executor | None = None

    def start(self, stage: Any, units: int, store: Any, starting: Starting) -> None:
        """See `Executor.start`."""
        if self._real is not None:
            return
        if self._cluster.executor == "serial":
            self._real = self._make()
            return
        with starting("Ray"):
            self._real = self._make()
            self._real.start(stage, units, store, lambda _: contextlib.nullcontext())

    def run(self, stage: Any, tasks: Any, store: Any, *stop: Any) -> Iterator[Any]:
        """See `Executor.run`."""
        if not tasks:
            return iter(())
        if self._real is None:
            self._real = self._make()
        return self._real.run(stage, tasks, store, *stop)

    def gpus(self) -> float:
        """See `Executor.gpus`; none before anything was started."""
        return self._real.gpus() if self._real else 0.0

    def _make(self) -> Executor:
        cluster = self._cluster
        if cluster.executor == "serial":
            from nightrank.runtime.executor import SerialExecutor

            return SerialExecutor(cluster.threads_per_worker, cluster.attempts)
        from nightrank.runtime.ray_executor import RayExecutor

        return RayExecutor(cluster)

    def report_eta(self, finish: float, deadline: float | None) -> None:
        """See `Executor.report_eta`."""
        if self._real:
            self._real.report_eta(finish, deadline)

    def close(self) -> None:
        """See `Executor.close`."""
        if self._real:
            self._real.close()
