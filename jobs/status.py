"""How far things are: `nightrank status CONFIG`. Reads the lake alone; needs no Ray and no plan."""

from __future__ import annotations

from typing import Any

import orjson

from jobs.terminal import ConfigPath, Json, Sets, command


def status(config: ConfigPath, sets: Sets = None, json: Json = False) -> None:
    """Published generations and unfinished runs, with the one next command."""
    from pipelines import prediction
    from pipelines.config_file import load_config
    from pipelines.results import open_lake
    from pipelines.storage.log import Log

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    current = Log(store, "results").current()
    index = Log(store, "index").current()
    summary: dict[str, Any] = {
        "generation": current.generation if current else None,
        "index_generation": index.generation if index else None,
        "unfinished": _unfinished(store),
    }
    body = current.body if current else {}
    summary |= {name: body[name] for name in ("forecast", "actual") if name in body}
    if json:
        print(orjson.dumps(summary).decode())
        return
    if current:
        rows = current.body["counts"]["rows"]["ranked"]
        queries = current.body["counts"]["queries"]["ranked"]
        print(
            f"generation {current.generation} is published: {rows} rows, {queries} queries ranked"
        )
        if line := prediction.told(body):
            print(line)
    else:
        print(f"nothing published yet in {store.url}")
    for run in summary["unfinished"]:
        print(f"unfinished: {run['run']}")
        for name, stage in run["stages"].items():
            done = "complete" if stage["complete"] else f"{stage['done']} units done"
            print(f"  {name:<28} {done}")
        if any(name.startswith("changes-") and s["complete"] for name, s in run["stages"].items()):
            print("  ready, not published: `nightrank nightly` says what holds it back")
    if summary["unfinished"] or not current:
        print(f"next: nightrank run {config}")


def _unfinished(store: Any) -> list[dict[str, Any]]:
    """Runs that have a plan and no log entry, with what each of their datasets has."""
    from pipelines.storage.dataset import Dataset
    from pipelines.storage.log import Log

    log = Log(store, "results")
    published = {entry.body["folder"] for entry in log.published()}
    found = []
    for run in store.folders("results"):
        folder = f"results/{run}"
        if run == "_log" or folder in published or "plan.json" not in store.files(folder):
            continue
        stages = {}
        for name in store.folders(folder):
            dataset = Dataset(store, f"{folder}/{name}")
            done = len(store.files(f"{folder}/{name}/_done"))
            stages[name] = {"done": done, "complete": dataset.manifest() is not None}
        found.append({"run": folder, "stages": stages})
    return found


if __name__ == "__main__":
    command(status)
