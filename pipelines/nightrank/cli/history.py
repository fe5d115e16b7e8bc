"""What was published when: `nightrank history CONFIG`."""

from __future__ import annotations

from typing import Any

import orjson

from nightrank.cli.terminal import ConfigPath, Json, Sets


def history(config: ConfigPath, sets: Sets = None, json: Json = False) -> None:
    """Every number of the results log: publications, rollbacks, collections."""
    from nightrank.config_file import load_config
    from nightrank.results import open_lake
    from nightrank.storage.log import Log

    loaded = load_config(config, sets or [])
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    log = Log(store, "results")
    lines = [_line(log.read(number)) for number in log.generations()]
    if json:
        print(orjson.dumps(lines).decode())
        return
    if not lines:
        print(f"nothing published yet in {store.url}")
        return
    current = log.current()
    print(f"{'number':>6}  {'time (UTC)':<19}  {'kind':<8}  {'index':>5}  what")
    for line in lines:
        mark = " *" if current and line["number"] == current.generation else ""
        index = line["index_generation"] or ""
        time = line["time"][:19]
        print(
            f"{line['number']:>6}  {time:<19}  {line['kind']:<8}  {index:>5}  {line['what']}{mark}"
        )
    print("* what readers see now")


def _line(entry: Any) -> dict[str, Any]:
    body = entry.body
    if body["kind"] == "condemn":
        what = f"{len(body['condemned'])} datasets given up"
    else:
        rows, counts = body["counts"]["rows"], body["counts"]
        what = (
            f"{counts['queries']['ranked']} queries over {counts['documents']['indexed']} documents"
        )
        what += f", {rows['ranked']} rows, {rows['changes']} changes"
        if body["kind"] == "rollback":
            what = f"to {body['rolled_back_to']}: {body['reason']}; {what}"
        gate = body.get("gate")
        if gate and gate["forced"]:
            what += f"; published against the gate: {gate['forced']}"
    return {
        "number": entry.generation,
        "time": body["time"],
        "kind": body["kind"],
        "index_generation": body.get("index_generation"),
        "what": what,
        **{name: body[name] for name in ("forecast", "actual") if name in body},
    }
