"""Attaches to a Ray cluster or starts one, and sets the environment that Ray reads at import."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import signal
import uuid
from typing import Any
from urllib.parse import urlsplit

# An unauthenticated Ray lets anyone who reaches its ports run code. Ray reads these once, at
# import.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Actors without a GPU share see no GPU. Set explicitly: Ray warns that its default will change.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")

import ray
from ray.exceptions import AuthenticationError
from ray.job_config import JobConfig

from nightrank.config.running import Cluster
from nightrank.errors import NightrankError
from nightrank.process.search_path import holds_this_package
from nightrank.runtime.ray_address import refuse_taken_port, refuse_unreachable

# For metadata, tasks and records: bulk data go through the lake.
OBJECT_STORE_BYTES = 256 << 20
# The Ray label by which a cluster's nodes say which pool they are for.
POOL_LABEL = "nightrank.io/pool"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Addresses that Ray resolves to a cluster on this machine.
NAMED = ("auto", "local")


class _Job(JobConfig):
    """A job whose workers search for modules where they are installed.

    Ray puts the driver's working directory and its script's folder first on the workers' `sys.path`
    (`connect` in ray/_private/worker.py of 2.60), and has no option to turn that off.
    """

    def _get_proto_job_config(self) -> Any:
        folders: list[str] = self._py_driver_sys_path
        folders[:] = [folder for folder in folders if holds_this_package(folder)]
        return super()._get_proto_job_config()


def connect(cluster: Cluster) -> None:
    """Attaches to a cluster, or starts one for this process alone.

    Raises:
        NightrankError: E_CONFIG for the address of a job server; E_AUTH where the token is missing
            or wrong, or authentication is off; E_CLUSTER where no cluster answers, or one of
            another version of Ray.
    """
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "job_config": _Job()}
    address = cluster.existing_address
    if address and address.startswith(("http://", "https://")):
        do = "`nightrank submit` takes it; or give host:6379, or leave cluster.address out"
        raise NightrankError("E_CONFIG", "a job server's address runs no stages", address, do)
    if address:
        refuse_open(address)
        refuse_unreachable(address)
    else:
        refuse_taken_port()
    stop = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            # A token for this process alone: otherwise Ray writes one to the home directory, which
            # turns authentication on for every later `ray start` of this user.
            os.environ.setdefault("RAY_AUTH_TOKEN", uuid.uuid4().hex)
            # Logical CPUs: the pools must fit side by side, on two cores too.
            requested = (pool.workers * (pool.cpus or 1.0) for pool in cluster.pools.values())
            cpus = max(8, 2 * (os.cpu_count() or 1), math.ceil(sum(requested)))
            ray.init(
                address="local",
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
    except AuthenticationError as error:
        raise authentication_failed(error, address or "local") from None
    except Exception as error:  # A node that is slow to start raises a plain Exception.
        raise no_cluster(error, address or "local") from error
    if callable(stop):
        # Ray replaces this program's handler by two of its own: one exits with 1, the other prints
        # its stack and aborts 3 s later (https://github.com/ray-project/ray/pull/64830).
        with contextlib.suppress(ValueError):  # Not in the main thread.
            signal.signal(signal.SIGTERM, stop)


def no_cluster(error: Exception, address: str) -> NightrankError:
    """E_CLUSTER in one line; Ray reports a mismatch of versions in seven."""
    text = " ".join(str(error).split())
    if text.startswith("Version mismatch"):
        what = f"another version of Ray runs at this address: {text}"
        do = "install the cluster's versions here; `ray stop` ends a leftover Ray of this machine"
        return NightrankError("E_CLUSTER", what, address, do)
    do = "check cluster.address and the token, or leave both out to start a cluster here;"
    do += " `ray stop` ends a leftover Ray of this machine"
    return NightrankError("E_CLUSTER", f"no Ray cluster: {first_line(error)}", address, do)


def labelled_pools() -> set[str]:
    """Pools that nodes are labelled for; the head is labelled too, since groups may be empty."""
    return {node.get("Labels", {}).get(POOL_LABEL) for node in ray.nodes()} - {None}


def node_of(reference: Any) -> tuple[str, bool]:
    """The name of the node whose id a reference holds, and whether it is alive.

    Where the id cannot be read the name is empty, and the node counts as alive.
    """
    try:
        node_id = ray.get(reference, timeout=1)
    except Exception:
        return "", True
    node = next((node for node in ray.nodes() if node["NodeID"] == node_id), None)
    return (node["NodeManagerHostname"], node["Alive"]) if node else ("", False)


def has_faiss_gpu() -> bool:
    """Whether the GPU build of FAISS is installed, without importing it."""
    names = ("faiss-gpu", "faiss-gpu-cuvs")
    installed = {str(d.metadata["Name"]).lower() for d in importlib.metadata.distributions()}
    return any(name in installed for name in names)


def refuse_open(address: str) -> None:
    """Refuses an unauthenticated cluster: anyone who reaches it runs code on all of it.

    Args:
        address: of its head or its job server; names without a host, as `auto`, mean this machine.

    Raises:
        NightrankError: E_AUTH, for a cluster on another machine while authentication is off.
    """
    host = urlsplit(address if "//" in address else f"//{address}").hostname
    here = not host or host in LOOPBACK or (host in NAMED and "//" not in address)
    if os.environ.get("RAY_AUTH_MODE") == "disabled" and not here:
        what = "RAY_AUTH_MODE=disabled is accepted only for a cluster on this machine"
        do = "start the cluster with RAY_AUTH_MODE=token and set RAY_AUTH_TOKEN here"
        raise NightrankError("E_AUTH", what, address, do)


def authentication_failed(error: Exception, address: str) -> NightrankError:
    """E_AUTH: Ray reports a token that is missing or wrong."""
    do = "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token"
    what = first_line(error).partition(". Ensure")[0]
    return NightrankError("E_AUTH", f"access denied: {what}", address, do)


def first_line(error: BaseException) -> str:
    """An error's first line, or its type."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
