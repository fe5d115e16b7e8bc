"""What the next run will take, before anything is spent: `nightrank plan CONFIG`.

nightrank plan my.yaml                                   # the next run, on this machine
nightrank plan my.yaml --from-scratch                    # as if the lake were empty
nightrank plan my.yaml --device H100 --gpu-hour 2.5      # on a GPU that is not here
nightrank plan my.yaml --documents 100000000 --queries 10000000   # the same kind of texts, more
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

if TYPE_CHECKING:
    from nightrank.config.schema import PipelineConfig
    from nightrank.forecast.hardware import Device
    from nightrank.generations.planning import Plan
    from nightrank.inputs.left_out import LeftOut
    from nightrank.inputs.splits import Split
    from nightrank.models.protocols import ResolvedModel
    from nightrank.storage.store import Store

    # The encoder, the rerankers, splits of the corpus and of the queries.
    _ModelsAndSplits = tuple[
        ResolvedModel, tuple[ResolvedModel, ...], tuple[Split, ...], tuple[Split, ...]
    ]
    # Files of the corpus and the queries that are not read.
    _LeftOut = dict[str, LeftOut]

Documents = Annotated[
    int | None, typer.Option("--documents", metavar="N", min=1, help="As if there were so many.")
]
AskedQueries = Annotated[
    int | None, typer.Option("--queries", metavar="M", min=1, help="As if there were so many.")
]
OnDevice = Annotated[
    str | None,
    typer.Option("--device", metavar="GPU", help="A10G, L4, L40S, A100, H100 or H200, by a table."),
]
SampleRows = Annotated[
    int, typer.Option("--sample", metavar="ROWS", min=10, help="Rows of either input to look at.")
]
NodeMemory = Annotated[
    float | None, typer.Option("--node-memory", metavar="GIB", min=0.1, help="Of one node.")
]
Change = Annotated[
    float, typer.Option("--change", min=0.0, max=1.0, help="Share that a night replaces.")
]
FromScratch = Annotated[bool, typer.Option("--from-scratch", help="As if the lake were empty.")]
CpuHour = Annotated[float | None, typer.Option("--cpu-hour", min=0.0, help="USD a CPU-hour.")]
GpuHour = Annotated[float | None, typer.Option("--gpu-hour", min=0.0, help="USD a GPU-hour.")]
Put1000 = Annotated[float | None, typer.Option("--put-1000", min=0.0, help="USD a 1,000 PUTs.")]
Get1000 = Annotated[float | None, typer.Option("--get-1000", min=0.0, help="USD a 1,000 GETs.")]


def plan(
    config: ConfigPath,
    sets: Sets = None,
    documents: Documents = None,
    queries: AskedQueries = None,
    device: OnDevice = None,
    sample: SampleRows = 2000,
    node_memory: NodeMemory = None,
    change: Change = 0.01,
    from_scratch: FromScratch = False,
    cpu_hour: CpuHour = None,
    gpu_hour: GpuHour = None,
    put_1000: Put1000 = None,
    get_1000: Get1000 = None,
    json: Json = False,
) -> None:
    """Counts, bytes, memory, time, requests and money of the next run, from a sample of the input.

    On a lake with earlier work this is the work that is left.
    """
    from nightrank.cli.plan_table import table
    from nightrank.config.file import load_config
    from nightrank.forecast.hardware import GIB, device_named
    from nightrank.forecast.predict import Question, predict
    from nightrank.generations.planning import make_plan
    from nightrank.generations.results import open_lake
    from nightrank.runtime.deadline import why_expired

    loaded = load_config(config, sets or [])
    gpu = device_named(device) if device else None
    memory = round(node_memory * GIB) if node_memory else None
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    made: Plan | None = None
    # What is asked of another size than the input's is no run's forecast: the lake is not touched.
    if documents or queries:
        found, left_out = _elsewhere(loaded, store)
    else:
        store.probe()
        made = make_plan(loaded, store)
        found, left_out = models_and_splits(made), made.left_out
    ask = Question(loaded, *found, sample, documents, queries, gpu, memory, change)
    forecast = predict(ask)
    forecast["note"], folder = _kept(made, store, from_scratch, loaded, gpu)
    if made and not from_scratch and holds_work(made, store):
        forecast = _of_next_run(forecast, made, store, change)
    finish(forecast, loaded, left_out, usd(cpu_hour, gpu_hour, put_1000, get_1000))
    if made and (late := why_expired(store, made.own_folder, loaded.budget.until, time.time())):
        forecast["warnings"].append(f"a run started now ends at once: {late}")
    if folder:
        forecast["note"] = _store(store, folder, forecast)
    forecast["stored"] = forecast["note"].startswith("stored")
    if json:
        print_json(forecast)
    else:
        print("\n".join(table(forecast, loaded.name)))


def usd(
    cpu_hour: float | None, gpu_hour: float | None, put_1000: float | None, get_1000: float | None
) -> dict[str, float | None]:
    """Prices by what they are of."""
    return {"cpu": cpu_hour, "gpu": gpu_hour, "put": put_1000, "get": get_1000}


def models_and_splits(made: Plan) -> _ModelsAndSplits:
    """Models and splits of a plan."""
    return made.encoder, made.steps, made.corpus_splits, made.query_splits


def finish(
    forecast: dict[str, Any],
    config: PipelineConfig,
    left_out: _LeftOut,
    prices: dict[str, float | None],
) -> None:
    """Adds what every forecast ends with: money, the bottleneck, files that are not read."""
    from nightrank.forecast.bottleneck import bottleneck

    forecast["usd"] = _money(forecast, prices)
    forecast["bottleneck"] = bottleneck(config, forecast)
    forecast["files_left_out"] = {name: files.counts for name, files in left_out.items()}
    forecast["warnings"] += [
        f"{name}: {files}" for name, one in left_out.items() if (files := one.describe())
    ]


def holds_work(made: Plan, store: Store) -> bool:
    """Whether the lake holds something that the next run builds upon or resumes."""
    begun = any(store.folders(at) for at in (made.folder, made.segment, made.queries))
    return bool(made.usable_base or made.earlier or begun)


def _of_next_run(full: dict[str, Any], made: Plan, store: Store, change: float) -> dict[str, Any]:
    """What is left to do; a large input is not read for that."""
    from nightrank.forecast.next_run import assumed, counted, next_run
    from nightrank.forecast.obstacles import obstacles

    if full["whole"]:
        documents, queries = counted(made, store)
        forecast = next_run(full, made, store, documents, queries)
        forecast["warnings"] += obstacles(made, store, documents)
        return forecast
    forecast = next_run(full, made, store, *assumed(made, store, full, change), exact=False)
    if not made.corpus_stands:
        what = f"the corpus was not read: {change:.1%} of it is taken as changed (--change)"
        forecast["warnings"].append(f"{what}; `nightrank nightly --dry-run` reads and counts it")
    return forecast


def _kept(
    made: Plan | None, store: Store, from_scratch: bool, config: PipelineConfig, gpu: Device | None
) -> tuple[str, str]:
    """Why the forecast is not stored, and ""; or "", and the folder of the run to store it in."""
    from nightrank.forecast.limits import lacks_its_gpus

    if made is None:
        return "not stored: the size is not the input's", ""
    if made.published is not None:
        return "already published: the next run does nothing; --from-scratch prices a whole run", ""
    if from_scratch and holds_work(made, store):
        return "not stored: priced as if the lake were empty", ""
    if lacks_its_gpus(config, gpu):  # A run would be held to it.
        return "not stored: timed on a CPU for a run on GPUs", ""
    return "", made.folder


def _elsewhere(config: PipelineConfig, store: Store) -> tuple[_ModelsAndSplits, _LeftOut]:
    """Models and splits of the sample's files."""
    from nightrank.generations.planned_models import resolve_models
    from nightrank.generations.planning import input_inventory, input_splits

    options, sources = config.storage_options, (config.corpus, config.queries)
    corpus, queries = (input_inventory(source, options) for source in sources)
    splits = (
        input_splits(config.corpus, corpus.files, options),
        input_splits(config.queries, queries.files, options),
    )
    left_out = {"corpus": corpus.left_out, "queries": queries.left_out}
    return (*resolve_models(config, store), *splits), left_out


def _store(store: Store, folder: str, forecast: dict[str, Any]) -> str:
    from nightrank.generations import prediction

    if prediction.keep(store, folder, forecast):
        return f"stored as {folder}/{prediction.NAME}; the run is compared with it"
    return f"an earlier forecast is kept: {folder}/{prediction.NAME}"


def _money(forecast: dict[str, Any], prices: dict[str, float | None]) -> dict[str, float]:
    """USD by what a price was given for, of the run and of a night; empty without prices."""
    amounts = {
        "cpu": forecast["cpu_hours"],
        "gpu": forecast["gpu_hours"],
        "put": forecast["requests"]["put"] / 1000,
        "get": forecast["requests"]["get"] / 1000,
    }
    usd = {n: round(amounts[n] * price, 4) for n, price in prices.items() if price is not None}
    if not usd:
        return {}
    # Requests go with what is written, the rest with the time.
    time = forecast["night"]["seconds"] / max(1e-9, forecast["seconds"])
    written = forecast["night"]["size"] / max(1, forecast["bytes"])
    shares = {"cpu": time, "gpu": time, "put": written, "get": written}
    later = sum(shares[name] * value for name, value in usd.items())
    return {**usd, "total": round(sum(usd.values()), 4), "night": round(later, 4)}
