"""Ray Train: one function on several processes that share a torch.distributed group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nightrank.config.running import Cluster
from nightrank.errors import NightrankError

# Before Ray itself: it sets the environment that Ray reads at import.
from nightrank.runtime.ray_cluster import connect, first_line

# isort: split
import ray


def train_together(
    cluster: Cluster,
    function: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    workers: int,
    threads: int,
    gpus: bool,
    folder: str,
) -> None:
    """Runs a function on several processes and waits for all.

    Args:
        cluster: where; without an address, a cluster is started on this machine.
        function: called with `settings` in every process; it resumes from its own checkpoints.
        settings: plain data.
        workers: number of processes.
        threads: CPUs of each.
        gpus: whether each takes one GPU (the group then uses NCCL, else gloo).
        folder: where Ray Train keeps its state; all nodes must see it.

    Raises:
        NightrankError: E_CLUSTER, where the processes cannot start or one fails three times.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    started_here = not ray.is_initialized()
    if started_here:
        connect(cluster)
    try:
        TorchTrainer(
            function,
            train_loop_config=settings,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": threads}
            ),
            run_config=RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=2)),
        ).fit()
    except Exception as error:  # Ray Train wraps what a worker raised.
        what = f"training on {workers} workers failed: {first_line(error)}"
        do = "read the workers' log; the same command continues from the last checkpoint"
        raise NightrankError("E_CLUSTER", what, cluster.address or "local", do) from error
    finally:
        if started_here:
            ray.shutdown()
