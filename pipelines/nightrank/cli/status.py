"""How far things are: `nightrank status CONFIG`. Reads the lake alone; needs no Ray and no plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nightrank.cli.closing import command, print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

if TYPE_CHECKING:
    from nightrank.api.status import Runs, Status


def status(config: ConfigPath, sets: Sets = None, json: Json = False) -> None:
    """What is published and unfinished, what was slow or lost, and the one next command."""
    from nightrank.api.status import status as read_status

    current = read_status(config, sets or [])
    then = command(current.next_verb, config, sets)
    if json:
        print_json({**current.to_dict(), "next": then})
        return
    print("\n".join(_lines(current)))
    print(f"next: {then}")


def _lines(status: Status) -> list[str]:
    from nightrank.generations import stored_forecast

    lines = []
    if status.generation is not None:
        rows, queries = status.counts["rows"]["ranked"], status.counts["queries"]["ranked"]
        lines.append(
            f"generation {status.generation} is published: {rows} rows, {queries} queries ranked"
        )
        if status.held_back:
            lines.append(f"held back: {status.held_back}")
            lines.append("  publication is paused until `nightrank resume`: runs end with exit 11")
        if line := stored_forecast.comparison(status.forecast, status.actual):
            lines.append(line)
        lines += _lines_of_runs(status.runs)
    else:
        lines.append(f"nothing published yet in {status.url}")
    for run in status.unfinished:
        lines.append(f"unfinished: {run.run}")
        for name, stage in run.stages.items():
            done = "complete" if stage.complete else f"{stage.done} units done"
            lines.append(f"  {name:<28} {done}")
        if run.is_ready:
            why = "a rollback is in force" if status.rollback else "`nightrank nightly` says why"
            lines.append(f"  ready, not published: {why}")
        lines += _lines_of_runs(run.runs)
    return lines


def _lines_of_runs(runs: Runs | None) -> list[str]:
    """The slowest unit, what was lost, and how the last run ended."""
    if runs is None:
        return []
    lines = []
    if unit := runs.slowest:
        place = f"{unit['stage']}, {unit['unit']} on {unit['node']}"
        lines.append(f"  slowest unit: {place}, {unit['seconds']:.1f} s")
    if runs.lost:
        parts = [_counted(count, *name.split("_", 1)) for name, count in runs.lost.items()]
        nodes = f" (on {', '.join(runs.nodes)})" if runs.nodes else ""
        lines.append(f"  lost: {', '.join(parts)}{nodes}")
    if "code" in runs.ended:
        where = f" ({runs.ended['where']})" if "where" in runs.ended else ""
        lines.append(f"  last run: error[{runs.ended['code']}]: {runs.ended['what']}{where}")
    elif runs.count and not runs.ended:
        lines.append("  last run: still running, or killed")
    return lines


def _counted(count: int, noun: str, participle: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)} {participle.replace('_', ' ')}"
