"""A forecast as lines for a person: at most 60 of them."""

from __future__ import annotations

from typing import Any

from nightrank.datasets.cut_inputs import share

# Stages below this share of the time share one line: 25 stages would fill the screen.
LEAST_SHARE, MOST_STAGES, MOST_ARTIFACTS = 0.01, 12, 10


def table(forecast: dict[str, Any], name: str) -> list[str]:
    """The lines.

    Args:
        forecast: the JSON of a forecast.
        name: of the experiment.
    """
    kind = "all of it was read" if forecast["whole"] else _sampled(forecast)
    if "next_run" in forecast:
        lines = [f"forecast of the next run of {name} on {forecast['device']}", ""]
        lines += [*_changes(forecast["next_run"]), *_cut(forecast), ""]
        lines += [*_stages(forecast), ""] if forecast["stages"] else []
        lines += [*_needs(forecast), *_bottleneck(forecast), *_money(forecast)]
    else:
        lines = [f"forecast of {name} on {forecast['device']} ({kind})", ""]
        lines += [*_counts(forecast), "", *_stages(forecast), "", *_artifacts(forecast), ""]
        lines += [
            *_needs(forecast),
            *_bottleneck(forecast),
            *_money(forecast),
            _incremental(forecast),
        ]
    lines += [f"warning: {warning}" for warning in forecast["warnings"]]
    return [*lines, forecast["note"]]


def _sampled(forecast: dict[str, Any]) -> str:
    rows = forecast["sampled"]
    return f"from {rows['documents']:,} documents and {rows['queries']:,} queries"


def _counts(forecast: dict[str, Any]) -> list[str]:
    documents, queries, tokens = (forecast[n] for n in ("documents", "queries", "tokens"))
    lines = [
        f"documents  {count(documents['kept']):>9}  of {documents['rows']:,} rows,"
        f" {size(documents['size'])} in {documents['files']} file(s)",
        f"queries    {count(queries['kept']):>9}  {queries['distinct']:,} distinct texts,"
        f" {size(queries['size'])} in {queries['files']} file(s)",
        f"pairs      {count(forecast['pairs']):>9}  {', '.join(forecast['models'])}",
    ]
    for name in ("encoder", "reranker"):
        real, padded = tokens[name], tokens[f"{name}_padded"]
        if real:
            more = padded / real - 1
            lines.append(f"tokens     {count(real):>9}  {name}, +{more:.0%} padding")
    return lines + _cut(forecast)


def _cut(forecast: dict[str, Any]) -> list[str]:
    """Inputs that are longer than a model takes."""
    return [
        f"cut        {share(cut['share']):>9}  of {cut['kind']} are cut at"
        f" {cut['tokens']} tokens ({cut['model']})"
        for cut in forecast["cut"]
        if cut["share"]
    ]


def _changes(next_run: dict[str, Any]) -> list[str]:
    """What changed, how many pairs are new, what is recomputed and what is done."""
    documents, queries, pairs = (next_run[name] for name in ("documents", "queries", "pairs"))
    about = "" if next_run["counted"] else ", assumed"
    lines = [
        f"documents  {count(documents['rows']):>9}  {_came(documents)}{about}",
        f"queries    {count(queries['rows']):>9}  {_came(queries)}{about};"
        f" {queries['new_texts']:,} of {queries['texts']:,} texts are new",
        f"pairs      {count(pairs['needed']):>9}  {pairs['known']:,} known,"
        f" {pairs['to_score']:,} to score ({'exact' if pairs['exact'] else 'an estimate'})",
    ]
    for change in next_run["again"]:
        values = f"{change['what']}: {change['before']} -> {change['now']}"
        lines.append(f"again      {values}: {change['again']}")
    if done := next_run["done"]:
        lines.append(f"done       {sum(done.values()):,} units of {len(done)} stages already")
    return lines


def _came(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[name]:,} {name}" for name in ("added", "changed", "removed"))


def _bottleneck(forecast: dict[str, Any]) -> list[str]:
    bottleneck = forecast["bottleneck"]
    return [f"bottleneck {bottleneck['text']}"] if bottleneck else []


def _stages(forecast: dict[str, Any]) -> list[str]:
    total, gpus = forecast["seconds"], bool(forecast["gpu_hours"])
    head = f"{'stage':<22}{'units':>8}{'time':>13}{'share':>7}{'written':>12}"
    lines = [head + f"{'GPU-hours':>12}" * gpus]
    small = {"units": 0, "seconds": 0.0, "bytes": 0, "gpu_hours": 0.0}
    ranked = sorted(forecast["stages"].values(), key=lambda stage: -stage["seconds"])
    least = ranked[min(len(ranked), MOST_STAGES) - 1]["seconds"]
    left = 0
    for name, stage in forecast["stages"].items():
        if stage["seconds"] < max(least, LEAST_SHARE * total):
            left += 1
            for key in small:
                small[key] += stage[key]
        else:
            lines.append(_stage(name, stage, total, gpus))
    if left:
        lines.append(_stage(f"{left} smaller ones", small, total, gpus))
    whole = {"units": sum(s["units"] for s in ranked), **forecast}
    return [*lines, _stage("total", whole, total, gpus)]


def _stage(name: str, stage: dict[str, Any], total: float, gpus: bool) -> str:
    share = stage["seconds"] / total if total else 0.0
    line = (
        f"{name[:21]:<22}{stage['units']:>8,}{duration(stage['seconds']):>13}{share:>7.0%}"
        f"{size(stage['bytes']):>12}"
    )
    return line + (f"{stage['gpu_hours']:>12,.2f}" if gpus else "")


def _artifacts(forecast: dict[str, Any]) -> list[str]:
    lines = [f"{'in the lake':<22}{'':>28}{'written':>12}"]
    artifacts = list(forecast["artifacts"].items())
    for name, written in artifacts[:MOST_ARTIFACTS]:
        lines.append(f"{name:<22}{'':>28}{size(written):>12}")
    rest = sum(written for _, written in artifacts[MOST_ARTIFACTS:])
    lines.append(f"{'all else':<22}{'':>28}{size(rest):>12}")
    lines.append(f"{'the lake at its peak':<22}{'':>28}{size(forecast['lake_bytes']):>12}")
    return lines


def _needs(forecast: dict[str, Any]) -> list[str]:
    memory, pools, index = (forecast[n] for n in ("memory", "pools", "index"))
    form = "Flat" if index["flat"] else "approximate"
    lines = [
        f"index      {index['shards']} shard(s) in {index['groups']} group(s), {form}",
        f"memory     {size(memory['group'])} a search group, {size(memory['index_shard'])} to build"
        f" an index shard; a node has {size(memory['available'])}",
    ]
    for name, held in memory["models"].items():
        lines.append(f"GPU memory {size(held)} {name} with a full batch")
    if memory["index_gpu"]:
        doing = "to search a group" if index["flat"] else "to build an index shard"
        lines.append(f"GPU memory {size(memory['index_gpu'])} {doing}")
    models = pools["model"]
    lines.append(
        f"workers    {pools['general']['workers']} general, {models['workers']} with models"
        f" of {models['threads']} thread(s); {pools['cpus']} CPUs, {pools['gpus']:g} GPUs"
    )
    lines.append(
        f"time       {duration(forecast['seconds'])}: {forecast['cpu_hours']:,.2f} CPU-hours,"
        f" {forecast['gpu_hours']:,.2f} GPU-hours"
    )
    asked = forecast["requests"]
    lines.append(f"requests   {count(asked['put'])} PUT and LIST, {count(asked['get'])} GET")
    return lines


def _money(forecast: dict[str, Any]) -> list[str]:
    usd = forecast["usd"]
    if not usd:
        return []
    parts = [
        f"{name.upper()} {usd[name]:,.2f}" for name in ("cpu", "gpu", "put", "get") if name in usd
    ]
    return [f"money      {usd['total']:,.2f} USD = {' + '.join(parts)}"]


def _incremental(forecast: dict[str, Any]) -> str:
    run, usd = forecast["night"], forecast["usd"]
    line = f"later runs with {run['share']:.1%} changed: {duration(run['seconds'])},"
    line += f" {count(run['pairs'])} pairs, {size(run['size'])}"
    return line + (f", {usd['night']:,.2f} USD" if usd else "")


def count(number: float) -> str:
    """A count in at most 7 characters: 12,345, 1.23 M, 45.6 G."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= limit:
            return f"{number / limit:.4g} {unit}"
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes in decimal units."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= limit:
            return f"{number / limit:,.1f} {unit}"
    return f"{number:,.0f} B"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, two of them."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days:,} d {hours} h"
