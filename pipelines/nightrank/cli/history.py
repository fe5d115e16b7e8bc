"""What was published when: `nightrank history CONFIG`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

if TYPE_CHECKING:
    from nightrank.storage.log import Entry

FACTS = ("rolled_back_from", "rolled_back_to", "resumes", "reason", "forecast", "actual")


def history(config: ConfigPath, sets: Sets = None, json: Json = False) -> None:
    """Lists the log of results: publications, rollbacks, ends of rollbacks, garbage collections."""
    from nightrank.config.file import load_config
    from nightrank.generations.results import open_lake
    from nightrank.storage.log import Log

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    log = Log(store, "results")
    numbers = log.generations()
    rollback, current = log.in_force(numbers), log.current()
    lines = [_line(log.read(number), rollback) for number in numbers]
    if json:
        print_json(lines)
        return
    if not lines:
        print(f"nothing published yet in {store.url}")
        return
    print(f"{'number':>6}  {'time (UTC)':<19}  {'kind':<8}  {'index':>5}  what")
    for line in lines:
        mark = " *" if current and line["number"] == current.generation else ""
        index = line["index_generation"] or ""
        time = line["time"][:19]
        print(
            f"{line['number']:>6}  {time:<19}  {line['kind']:<8}  {index:>5}  {line['what']}{mark}"
        )
    print("* what readers see now")
    if rollback:
        print(f"publication is paused until: {command('resume', config, sets)}")


def _line(entry: Entry, rollback: Entry | None) -> dict[str, Any]:
    body = entry.body
    if body["kind"] == "condemn":
        what = f"{len(body['condemned'])} datasets deleted by gc"
    elif body["kind"] == "resume":
        why = f": {body['reason']}" if body["reason"] else ""
        what = f"publication resumed after rollback {body['resumes']}{why}"
    else:
        rows, counts = body["counts"]["rows"], body["counts"]
        what = (
            f"{counts['queries']['ranked']} queries over {counts['documents']['indexed']} documents"
        )
        what += f", {rows['ranked']} rows, {rows['changes']} changes"
        if body["kind"] == "rollback":
            source = f"from {body['rolled_back_from']} " if body.get("rolled_back_from") else ""
            what = f"{source}to {body['rolled_back_to']}: {body['reason']}; {what}"
        gate = body.get("gate")
        if gate and gate["forced"]:
            what += f"; published against the gate: {gate['forced']}"
    return {
        "number": entry.generation,
        "time": body["time"],
        "kind": body["kind"],
        "index_generation": body.get("index_generation"),
        "what": what,
        # Whether this rollback is in force: nothing is published then.
        "in_force": rollback is not None and rollback.generation == entry.generation,
        **{name: body[name] for name in FACTS if name in body},
    }
