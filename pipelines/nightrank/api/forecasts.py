"""`plan` and `dry_run`: forecasts of the next run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nightrank.api.config import Config, load_config
from nightrank.api.forecast import Forecast
from nightrank.api.pricing import CHANGE, SAMPLE_ROWS, Prices
from nightrank.api.process import environment_kept
from nightrank.config.overrides import Overrides
from nightrank.config.schema import PipelineConfig
from nightrank.forecast.bottleneck import bottleneck
from nightrank.forecast.hardware import GIB, device_named
from nightrank.forecast.limits import lacks_its_gpus
from nightrank.forecast.next_run import assumed, counted, next_run
from nightrank.forecast.obstacles import obstacles
from nightrank.forecast.predict import Question, predict
from nightrank.generations import stored_forecast
from nightrank.generations.planned_models import resolve_models
from nightrank.generations.planning import Plan, input_inventory, input_splits, make_plan
from nightrank.generations.results import open_lake
from nightrank.inputs.left_out import LeftOut
from nightrank.inputs.splits import Split
from nightrank.models.protocols import ResolvedModel
from nightrank.runtime.deadline import why_expired
from nightrank.storage.store import Store


@dataclass(frozen=True)
class _Job:
    """What is forecast: models and splits of the inputs, and files that are not read."""

    encoder: ResolvedModel
    steps: tuple[ResolvedModel, ...]
    corpus_splits: tuple[Split, ...]
    query_splits: tuple[Split, ...]
    left_out: Mapping[str, LeftOut]

    @staticmethod
    def of(plan: Plan) -> _Job:
        """The job of a plan."""
        splits = plan.corpus_splits, plan.query_splits
        return _Job(plan.encoder, plan.steps, *splits, plan.left_out)

    def question(self, config: PipelineConfig, **options: Any) -> Question:
        """What `predict` is asked."""
        splits = self.corpus_splits, self.query_splits
        return Question(config, self.encoder, self.steps, *splits, **options)


def plan(
    config: Config,
    overrides: Overrides = (),
    *,
    documents: int | None = None,
    queries: int | None = None,
    device: str | None = None,
    sample_rows: int = SAMPLE_ROWS,
    node_memory_gib: float | None = None,
    change: float = CHANGE,
    from_scratch: bool = False,
    prices: Prices | None = None,
) -> Forecast:
    """Forecasts the next run from a sample of the input; on an existing lake, what is left to do.

    The forecast is stored with the run's plan, and the run is compared with it.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["rerank.depth=50"]` or `{"rerank.depth": 50}`.
        documents: as if there were this many documents of the same kind.
        queries: as if there were this many queries of the same kind.
        device: a GPU of the table (A10G, L4, L40S, A100, H100, H200); None times this machine.
        sample_rows: rows of either input to look at.
        node_memory_gib: memory of one node in GiB; None takes this machine's.
        change: share of the documents, from 0 to 1, that an incremental run replaces.
        from_scratch: as if the lake were empty.
        prices: of CPUs, GPUs and requests.

    Returns:
        Counts, bytes, memory, time, requests and money. `print` shows a table.

    Raises:
        NightrankError: E_CONFIG for a plan that cannot be; E_EMPTY or E_SCHEMA for the input;
            E_MODEL for a model that cannot be used.
    """
    loaded = load_config(config, overrides)
    gpu = device_named(device) if device else None
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    planned: Plan | None = None
    with environment_kept():
        # Another size than the input's is no run's forecast: the lake is neither read nor written.
        if documents or queries:
            job = _job_of_another_size(loaded, store)
        else:
            store.probe()
            planned = make_plan(loaded, store)
            job = _Job.of(planned)
        question = job.question(
            loaded,
            sample_rows=sample_rows,
            documents=documents,
            queries=queries,
            device=gpu,
            node_memory=_bytes(node_memory_gib),
            change=change,
        )
        plain = predict(question)
        if planned and not from_scratch and _has_work(planned, store):
            plain = _of_next_run(plain, planned, store, change)
    _complete(plain, loaded, job.left_out, prices or Prices())
    if planned and (
        late := why_expired(store, planned.own_folder, loaded.budget.until, time.time())
    ):
        plain["warnings"].append(f"a run started now ends at once: {late}")
    plain["note"] = ""
    if planned is None:
        plain["note"] = "not stored: the size is not the input's"
    elif planned.published is not None:
        plain["note"] = (
            "already published: the next run does nothing; --from-scratch prices a whole run"
        )
    elif from_scratch and _has_work(planned, store):
        plain["note"] = "not stored: priced as if the lake were empty"
    elif lacks_its_gpus(loaded, gpu):  # The run would be compared with it.
        plain["note"] = "not stored: timed on a CPU for a run on GPUs"
    else:
        plain["note"] = _stored(store, planned.folder, plain)
    plain["stored"] = plain["note"].startswith("stored")
    return Forecast.of(loaded.name, plain)


def dry_run(
    config: Config,
    overrides: Overrides = (),
    *,
    device: str | None = None,
    sample_rows: int = SAMPLE_ROWS,
    node_memory_gib: float | None = None,
    prices: Prices | None = None,
) -> Forecast:
    """Forecasts `nightly`: reads both inputs in full and compares them with the lake.

    Nothing is written to the lake, not even a plan. For the arguments see `plan`.

    Returns:
        The forecast; `next_run` has what changed, `warnings` what would hold the results back.

    Raises:
        NightrankError: as `nightly` would refuse the config or an input.
    """
    loaded = load_config(config, overrides)
    gpu = device_named(device) if device else None
    store = open_lake(loaded.root, loaded.name, loaded.storage_options)
    with environment_kept():
        planned = make_plan(loaded, store, keeps=False)
        documents, queries = counted(planned, store)
        question = _Job.of(planned).question(
            loaded, sample_rows=sample_rows, device=gpu, node_memory=_bytes(node_memory_gib)
        )
        plain = next_run(predict(question), planned, store, documents, queries)
    _complete(plain, loaded, planned.left_out, prices or Prices())
    plain["warnings"] += obstacles(planned, store, documents)
    note = "dry run: both inputs were read, nothing was written to the lake"
    if planned.published is not None:
        note = f"{note}; generation {planned.published} already has these results: nothing to do"
    plain |= {"dry_run": True, "stored": False, "note": note}
    return Forecast.of(loaded.name, plain)


def _bytes(gib: float | None) -> int | None:
    return round(gib * GIB) if gib else None


def _complete(
    plain: dict[str, Any],
    config: PipelineConfig,
    left_out: Mapping[str, LeftOut],
    prices: Prices,
) -> None:
    """Adds what every forecast ends with: money, the bottleneck, files that are not read."""
    plain["usd"] = _money(plain, prices)
    plain["bottleneck"] = bottleneck(config, plain)
    plain["files_left_out"] = {name: files.counts for name, files in left_out.items()}
    plain["warnings"] += [
        f"{name}: {text}" for name, files in left_out.items() if (text := files.describe())
    ]


def _has_work(planned: Plan, store: Store) -> bool:
    """Whether the lake has something that the next run builds upon or resumes."""
    begun = any(store.folders(at) for at in (planned.folder, planned.segment, planned.queries))
    return bool(planned.usable_base or planned.earlier or begun)


def _of_next_run(
    full: dict[str, Any], planned: Plan, store: Store, change: float
) -> dict[str, Any]:
    """What is left to do; a large input is not read for that."""
    if full["whole"]:
        documents, queries = counted(planned, store)
        plain = next_run(full, planned, store, documents, queries)
        plain["warnings"] += obstacles(planned, store, documents)
        return plain
    plain = next_run(full, planned, store, *assumed(planned, store, full, change), exact=False)
    if not planned.corpus_is_indexed:
        what = f"the corpus was not read: {change:.1%} of it is assumed to have changed (--change)"
        plain["warnings"].append(f"{what}; `nightrank nightly --dry-run` reads and counts it")
    return plain


def _job_of_another_size(config: PipelineConfig, store: Store) -> _Job:
    """Models, and splits of the files that are sampled."""
    options, sources = config.storage_options, (config.corpus, config.queries)
    corpus, queries = (input_inventory(source, options) for source in sources)
    encoder, steps = resolve_models(config, store)
    return _Job(
        encoder,
        steps,
        input_splits(config.corpus, corpus.files, options),
        input_splits(config.queries, queries.files, options),
        {"corpus": corpus.left_out, "queries": queries.left_out},
    )


def _stored(store: Store, folder: str, plain: dict[str, Any]) -> str:
    if stored_forecast.keep(store, folder, plain):
        return f"stored as {folder}/{stored_forecast.NAME}; the run is compared with it"
    return f"an earlier forecast is kept: {folder}/{stored_forecast.NAME}"


def _money(plain: dict[str, Any], prices: Prices) -> dict[str, float]:
    """USD by what a price is given for, of the run and of an incremental run; empty without."""
    amounts = {
        "cpu": (plain["cpu_hours"], prices.cpu_hour),
        "gpu": (plain["gpu_hours"], prices.gpu_hour),
        "put": (plain["requests"]["put"] / 1000, prices.put_1000),
        "get": (plain["requests"]["get"] / 1000, prices.get_1000),
    }
    usd = {
        name: round(amount * price, 4)
        for name, (amount, price) in amounts.items()
        if price is not None
    }
    if not usd:
        return {}
    # Requests are proportional to what is written, the rest to the time.
    time_share = plain["night"]["seconds"] / max(1e-9, plain["seconds"])
    written = plain["night"]["size"] / max(1, plain["bytes"])
    shares = {"cpu": time_share, "gpu": time_share, "put": written, "get": written}
    later = sum(shares[name] * amount for name, amount in usd.items())
    return {**usd, "total": round(sum(usd.values()), 4), "night": round(later, 4)}
