"""Nightrank: offline retrieve-then-rerank, from a corpus and queries to ranked Parquet.

    import nightrank

    config = nightrank.load_config("my.yaml", {"rerank.depth": 50})
    print(nightrank.plan(config))
    result = nightrank.run(config)
    result.ranked.to_table()

Every error that is expected is a `NightrankError`. `docs/python-api.md` describes all of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nightrank.api.config import load_config
    from nightrank.api.evaluation import Evaluation, evaluate
    from nightrank.api.forecast import Forecast
    from nightrank.api.forecasts import dry_run, plan
    from nightrank.api.pricing import Prices
    from nightrank.api.reading import Published, published
    from nightrank.api.result import Result
    from nightrank.api.runs import nightly, rank, reindex, run
    from nightrank.api.status import Status, status
    from nightrank.config.schema import PipelineConfig
    from nightrank.errors import NightrankError
    from nightrank.generations.results import read_results

__all__ = [
    "Evaluation",
    "Forecast",
    "NightrankError",
    "PipelineConfig",
    "Prices",
    "Published",
    "Result",
    "Status",
    "dry_run",
    "evaluate",
    "load_config",
    "nightly",
    "plan",
    "published",
    "rank",
    "read_results",
    "reindex",
    "run",
    "status",
]

_MODULES = {
    "Evaluation": "api.evaluation",
    "Forecast": "api.forecast",
    "NightrankError": "errors",
    "PipelineConfig": "config.schema",
    "Prices": "api.pricing",
    "Published": "api.reading",
    "Result": "api.result",
    "Status": "api.status",
    "dry_run": "api.forecasts",
    "evaluate": "api.evaluation",
    "load_config": "api.config",
    "nightly": "api.runs",
    "plan": "api.forecasts",
    "published": "api.reading",
    "rank": "api.runs",
    "read_results": "generations.results",
    "reindex": "api.runs",
    "run": "api.runs",
    "status": "api.status",
}


def __getattr__(name: str) -> Any:
    """Imports on first use, so that `import nightrank` and the command line start fast."""
    if name in _MODULES:
        return getattr(import_module(f"nightrank.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'nightrank' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of the API, for completion in notebooks."""
    return sorted([*globals(), *_MODULES])
