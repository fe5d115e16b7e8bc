"""Checks what a run needs before it is started: `nightrank doctor [CONFIG]`.

nightrank doctor               # this machine and what is installed
nightrank doctor my.yaml       # its store, credentials, inputs and models too

Every line says ok, warn or fail, what was found and what to do. Exits with 3 if anything fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from nightrank.cli.terminal import Json, Sets
from nightrank.errors import NightrankError

if TYPE_CHECKING:
    from nightrank.config.schema import PipelineConfig
    from nightrank.diagnosis.finding import Finding

MaybeConfig = Annotated[
    str | None, typer.Argument(metavar="[CONFIG]", help="YAML file of the experiment.")
]
FEW_TRIES = {"tries": 3}


def doctor(config: MaybeConfig = None, sets: Sets = None, json: Json = False) -> None:
    """Environment, store, credentials, models, GPU and limits, a line each."""
    count, failed = 0, []
    for finding in _findings(config, sets or []):
        count += 1
        failed += [finding.check] if finding.state == "fail" else []
        if json:
            print(orjson.dumps(asdict(finding)).decode(), flush=True)
        else:
            do = f" - {finding.do}" if finding.do else ""
            print(f"{finding.state:<5} {finding.check:<14} {finding.found}{do}", flush=True)
    if failed:
        what = f"{len(failed)} of {count} checks fail: {', '.join(dict.fromkeys(failed))}"
        # The last line has a finding's keys too: a program can read all lines alike.
        details = {"check": "doctor", "state": "end", "found": what}
        do = "their lines say what to do"
        raise NightrankError("E_UNFIT", what, config or "this machine", do, details)


def _findings(path: str | None, sets: list[str]) -> Iterator[Finding]:
    """All findings; quick checks of this machine come first."""
    from nightrank.config.file import load_config
    from nightrank.diagnosis import judgements, lake, machine, models
    from nightrank.diagnosis.finding import Finding, examine
    from nightrank.generations.results import open_lake

    loaded: PipelineConfig | None = None
    refused: Finding | None = None
    if path:
        try:
            loaded = load_config(path, sets)
        except NightrankError as error:
            where = f" ({error.where})" if error.where else ""
            refused = Finding("config", "fail", f"{error.what}{where}", error.do)
    options = loaded.storage_options if loaded else {}
    # A user waits for the answer: a store that is down is asked fewer times than in a run.
    options = {**options, "retry": {**FEW_TRIES, **options.get("retry", {})}}
    store = open_lake(loaded.root, loaded.name, options) if loaded else None
    local = store.path(".") if store and not store.remote else None
    address = (loaded.cluster.address if loaded else None) or os.environ.get("RAY_ADDRESS", "")
    yield from examine("python", machine.python)
    yield from examine("packages", machine.packages)
    yield from examine("ray auth", lambda: machine.ray_settings(address))
    yield from examine("disk", lambda: machine.disks(local))
    yield from examine("open files", machine.open_files)
    yield from examine("gpu", machine.accelerators)
    if refused:
        yield refused
    if loaded is None or store is None:
        return
    yield Finding("config", "ok", f"{path} is valid")
    answers = True
    for finding in examine("store", lambda: lake.lake(store)):
        answers = answers and finding.state != "fail"
        yield finding
    readable = True
    for finding in lake.inputs(loaded, options):
        readable = readable and finding.state != "fail"
        yield finding
    known = store if answers else None
    if readable:
        yield from examine("judgements", lambda: judgements.judgements(loaded, known, options))
    yield from models.models(loaded, store if answers else None)
