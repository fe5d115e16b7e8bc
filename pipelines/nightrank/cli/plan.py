"""What a run will take, before anything is spent: `nightrank plan CONFIG`.

nightrank plan my.yaml                                   # on this machine
nightrank plan my.yaml --device H100 --gpu-hour 2.5      # on a GPU that is not here
nightrank plan my.yaml --documents 100000000 --queries 10000000   # the same kind of texts, more
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightrank.cli.closing import print_json
from nightrank.cli.terminal import ConfigPath, Json, Sets

if TYPE_CHECKING:
    from nightrank.config import PipelineConfig
    from nightrank.models.protocols import ResolvedModel
    from nightrank.storage.inputs import Split
    from nightrank.storage.left_out import LeftOut
    from nightrank.storage.store import Store

    # The encoder, the rerankers, splits of the corpus and of the queries.
    _Found = tuple[ResolvedModel, tuple[ResolvedModel, ...], tuple[Split, ...], tuple[Split, ...]]
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
    cpu_hour: CpuHour = None,
    gpu_hour: GpuHour = None,
    put_1000: Put1000 = None,
    get_1000: Get1000 = None,
    json: Json = False,
) -> None:
    """Counts, bytes, memory, time, requests and money of a run, from a sample of the input."""
    from nightrank.cli.plan_table import table
    from nightrank.config_file import load_config
    from nightrank.forecast.hardware import GIB, device_named
    from nightrank.forecast.limits import lacks_its_gpus
    from nightrank.forecast.predict import Question, predict
    from nightrank.results import open_lake

    loaded = load_config(config, sets or [])
    gpu = device_named(device) if device else None
    memory = round(node_memory * GIB) if node_memory else None
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    # What is asked of another size than the input's is no run's forecast: the lake is not touched.
    if documents or queries:
        found, left_out = _elsewhere(loaded, store)
        folder, note = "", "another size than the input's: not stored"
    else:
        found, left_out, folder, note = _planned(loaded, store)
    ask = Question(loaded, *found, sample, documents, queries, gpu, memory, change)
    forecast = predict(ask)
    prices = {"cpu": cpu_hour, "gpu": gpu_hour, "put": put_1000, "get": get_1000}
    forecast["usd"] = _money(forecast, prices)
    if folder and lacks_its_gpus(loaded, gpu):
        note = "timed on a CPU for a run on GPUs: not stored"  # A first night would be held to it.
    elif folder:
        note = _store(store, folder, forecast)
    forecast["files_left_out"] = {name: files.counts for name, files in left_out.items()}
    forecast["warnings"] += [
        f"{name}: {files}" for name, one in left_out.items() if (files := one.told())
    ]
    forecast |= {"stored": note.startswith("stored"), "note": note}
    if json:
        print_json(forecast)
    else:
        print("\n".join(table(forecast, loaded.name)))


def _elsewhere(config: PipelineConfig, store: Store) -> tuple[_Found, _LeftOut]:
    """Models and splits of the sample's files."""
    from nightrank.planned_models import resolve_models
    from nightrank.planning import input_inventory, input_splits

    options, sources = config.storage_options, (config.corpus, config.queries)
    corpus, queries = (input_inventory(source, options) for source in sources)
    splits = (
        input_splits(config.corpus, corpus.files, options),
        input_splits(config.queries, queries.files, options),
    )
    left_out = {"corpus": corpus.left_out, "queries": queries.left_out}
    return (*resolve_models(config, store), *splits), left_out


def _planned(config: PipelineConfig, store: Store) -> tuple[_Found, _LeftOut, str, str]:
    """The run that would come: models and splits, its folder, or why no forecast is stored."""
    from nightrank.planning import make_plan

    store.probe()
    made = make_plan(config, store)
    found = (made.encoder, made.steps, made.corpus_splits, made.query_splits)
    folder, note = made.folder, ""
    if made.published is not None:
        folder, note = "", "already published: the run would do nothing; this is one from nothing"
    elif made.usable_base or made.earlier:
        folder = ""
        note = "the lake holds earlier work, which a run reuses; this is one from nothing"
    return found, made.left_out, folder, note


def _store(store: Store, folder: str, forecast: dict[str, Any]) -> str:
    from nightrank import prediction

    if prediction.keep(store, folder, forecast):
        return f"stored as {folder}/{prediction.NAME}; the run is held against it"
    return f"an earlier forecast stands in {folder}/{prediction.NAME}: that one is kept"


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
