"""How far things are: `nightrank status CONFIG`. Reads the lake alone; needs no Ray and no plan."""

from __future__ import annotations

from typing import Any

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

# By the exit code that the last run of a plan ended with; for any other the same verb again.
NEXT = {3: "doctor", 7: "verify"}


def status(config: ConfigPath, sets: Sets = None, json: Json = False) -> None:
    """What is published and unfinished, what was slow or lost, and the one next command."""
    from nightrank.config.file import load_config
    from nightrank.generations import prediction
    from nightrank.generations.results import open_lake
    from nightrank.storage.log import Log, held_back

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    current, rollback = Log(store, "results").current(), Log(store, "results").in_force()
    index = Log(store, "index").current()
    body = current.body if current else {}
    summary: dict[str, Any] = {
        "generation": current.generation if current else None,
        "index_generation": index.generation if index else None,
        "runs": _story(store, body["folder"]) if current else None,
        "unfinished": _unfinished(store),
        "rollback": held_back(rollback).details["rollback"] if rollback else None,
    }
    summary["next"] = command(_next(summary, body.get("unfinished", "")), config, sets)
    summary |= {name: body[name] for name in ("forecast", "actual") if name in body}
    if json:
        print_json(summary)
        return
    if current:
        rows = current.body["counts"]["rows"]["ranked"]
        queries = current.body["counts"]["queries"]["ranked"]
        print(
            f"generation {current.generation} is published: {rows} rows, {queries} queries ranked"
        )
        if rollback:
            print(f"held back: {held_back(rollback).what}")
            print("  publication is paused until `nightrank resume`: runs end with exit 11")
        if line := prediction.told(body):
            print(line)
        _tell(summary["runs"])
    else:
        print(f"nothing published yet in {store.url}")
    for run in summary["unfinished"]:
        print(f"unfinished: {run['run']}")
        for name, stage in run["stages"].items():
            done = "complete" if stage["complete"] else f"{stage['done']} units done"
            print(f"  {name:<28} {done}")
        if any(name.startswith("changes-") and s["complete"] for name, s in run["stages"].items()):
            why = "a rollback is in force" if rollback else "`nightrank nightly` says why"
            print(f"  ready, not published: {why}")
        _tell(run["runs"])
    print(f"next: {summary['next']}")


def _unfinished(store: Any) -> list[dict[str, Any]]:
    """Runs that have a plan and no log entry, with what each of their datasets has."""
    from nightrank.storage.dataset import Dataset
    from nightrank.storage.log import Log

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
        found.append({"run": folder, "stages": stages, "runs": _story(store, folder)})
    return sorted(found, key=lambda run: run["runs"]["time"])


def _story(store: Any, folder: str) -> dict[str, Any]:
    """What the events of all runs of a plan come to.

    Returns:
        `count` of the runs; the `slowest` unit of them all; what was `lost`, by event, and on which
        `nodes`; of the last one how it `ended`, its `verb`, and the `time` of its last event.
    """
    from nightrank.runtime.events import BEGINNINGS, ENDINGS, LOSSES, events_of

    runs = events_of(store, folder)
    every = [event for run in runs for event in run]
    units = [event for event in every if event["event"] == "slowest_unit"]
    slowest = max(units, key=lambda event: event["seconds"], default={})
    lost = {name: sum(event["event"] == name for event in every) for name in LOSSES}
    nodes = sorted({event.get("node", "") for event in every if event["event"] in LOSSES} - {""})
    last = runs[-1] if runs else []
    ends = [event for event in last if event["event"] in ENDINGS]
    began = [event.get("verb", "run") for event in last if event["event"] in BEGINNINGS]
    return {
        "count": len(runs),
        "slowest": {name: slowest[name] for name in SHOWN if name in slowest},
        "lost": {name: count for name, count in lost.items() if count},
        "nodes": nodes,
        "ended": ends[-1] if ends else {},
        "verb": began[0] if began else "run",
        "time": last[-1]["time"] if last else "",
    }


SHOWN = ("stage", "unit", "node", "seconds")


def _tell(story: dict[str, Any]) -> None:
    if unit := story["slowest"]:
        place = f"{unit['stage']}, {unit['unit']} on {unit['node']}"
        print(f"  slowest unit: {place}, {unit['seconds']:.1f} s")
    if story["lost"]:
        parts = [_counted(count, *name.split("_", 1)) for name, count in story["lost"].items()]
        nodes = f" (on {', '.join(story['nodes'])})" if story["nodes"] else ""
        print(f"  lost: {', '.join(parts)}{nodes}")
    ended = story["ended"]
    if "code" in ended:
        where = f" ({ended['where']})" if "where" in ended else ""
        print(f"  last run: error[{ended['code']}]: {ended['what']}{where}")
    elif story["count"] and not ended:
        print("  last run: still going, or killed")


def _next(summary: dict[str, Any], cut_short: str) -> str:
    """The verb that brings things forward, by the run that was heard of last.

    Args:
        summary: what is known.
        cut_short: why the current generation was published before all was scored; else empty.
    """
    if summary["rollback"]:
        return "resume"
    if summary["unfinished"]:
        story = summary["unfinished"][-1]["runs"]
        return NEXT.get(story["ended"].get("exit"), story["verb"])
    if cut_short:
        return str(summary["runs"]["verb"])
    return "results" if summary["generation"] else "run"


def _counted(count: int, thing: str, fate: str) -> str:
    return f"{count} {thing}{'s' * (count != 1)} {fate.replace('_', ' ')}"
