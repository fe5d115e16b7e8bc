"""Serves metrics of what is published to Prometheus: `nightrank exporter CONFIG --port 9464`.

A run's own metrics end with the run; the age of the newest generation is needed while nothing runs.
Reads the lake's logs at every scrape (a listing and an entry each), never the data.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.terminal import ConfigPath, Sets
from nightrank.errors import NightrankError

if TYPE_CHECKING:
    from nightrank.storage.store import Store

Port = Annotated[
    int, typer.Option("--port", min=1, max=65535, help="Port that Prometheus scrapes.")
]
Host = Annotated[
    str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every interface.")
]


def exporter(
    config: ConfigPath, sets: Sets = None, port: Port = 9464, host: Host = "127.0.0.1"
) -> None:
    """Serves generation, age and rows of what is published, until it is stopped."""
    from prometheus_client import CollectorRegistry, start_http_server

    from nightrank.config.file import load_config
    from nightrank.generations.results import open_lake

    loaded = load_config(config, sets or [])
    registry = CollectorRegistry()
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    registry.register(Published(store, loaded.name))
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        what, do = f"cannot listen: {error.strerror}", "choose a free --port"
        raise NightrankError("E_USAGE", what, f"{host}:{port}", do) from None
    print(f"nightrank: metrics of {store.url} on http://{host}:{port}/metrics", flush=True)
    while True:
        signal.pause()


class Published:
    """A Prometheus collector over the logs of one lake."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name

    def collect(self) -> Iterator[Any]:
        """Generation and age by log, rows by table; whether the lake is readable or rolled back."""
        from prometheus_client.core import GaugeMetricFamily

        from nightrank.storage.log import Log

        def gauge(name: str, text: str, *labels: str) -> Any:
            return GaugeMetricFamily(f"nightrank_{name}", text, labels=["lake", *labels])

        readable = gauge("lake_readable", "1 where the lake's logs could be read.")
        generation = gauge("generation", "Number of the newest log entry.", "log")
        age = gauge("generation_age_seconds", "Seconds since it was published.", "log")
        rows = gauge("generation_rows", "Rows of the newest results.", "table")
        held = gauge("rollback_in_force", "1 while a rollback is in force.")
        try:
            for log in ("results", "index"):
                entry = Log(self._store, log).current()
                if entry is None:
                    continue  # No age at all: alerts look for its absence.
                generation.add_metric([self._name, log], entry.generation)
                age.add_metric([self._name, log], self._age(log, entry))
                for table, count in entry.body.get("counts", {}).get("rows", {}).items():
                    rows.add_metric([self._name, table], count)
            held.add_metric([self._name], int(Log(self._store, "results").in_force() is not None))
            readable.add_metric([self._name], 1)
        except (NightrankError, OSError):
            readable.add_metric([self._name], 0)
        yield from (readable, generation, age, rows, held)

    def _age(self, channel: str, entry: Any) -> float:
        """Seconds since the files were published; those of a rollback are as old as its target."""
        from nightrank.storage.log import Log

        while "rolled_back_to" in entry.body:
            entry = Log(self._store, channel).read(entry.body["rolled_back_to"])
        return (datetime.now(UTC) - datetime.fromisoformat(entry.body["time"])).total_seconds()
