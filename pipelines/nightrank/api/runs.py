"""`run`, `nightly`, `rank` and `reindex`: each runs the pipeline, or one half of it."""

from __future__ import annotations

import datetime
from typing import TextIO

from nightrank.api.config import Config, load_config
from nightrank.api.execution import Request, run_to_result
from nightrank.api.process import progress_of
from nightrank.api.result import Result
from nightrank.config.overrides import Overrides
from nightrank.errors import NightrankError


def run(
    config: Config,
    overrides: Overrides = (),
    *,
    first: str | None = None,
    last: str | None = None,
    progress: bool | TextIO = True,
) -> Result:
    """Ranks the queries over the corpus and publishes; the same call resumes.

    Does nothing if this very plan is published and current. Uses the Ray cluster that the process
    is connected to; else the one at `cluster.address`; else it starts one and ends it.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["rerank.depth=50"]` or `{"rerank.depth": 50}`.
        first: refuse to run unless all stages before this one are complete.
        last: stop after this stage; before `publish` nothing is published.
        progress: False for none, or the text stream that it is printed to.

    Returns:
        The generation, its counts, measures and files. `cut_short` has the E_BUDGET error of a run
        that published a part of the depth (`budget.on_budget: publish_depth`).

    Raises:
        NightrankError: `code` says which kind, e.g. E_CONFIG, E_SCHEMA, E_CLUSTER; E_BUDGET if the
            budget ended it before anything was published. The same call continues it.
    """
    request = Request(first=first, last=last)
    return run_to_result(load_config(config, overrides), request, progress_of(progress))


def nightly(
    config: Config,
    overrides: Overrides = (),
    *,
    force_publish: str = "",
    began: datetime.datetime | None = None,
    progress: bool | TextIO = True,
) -> Result:
    """Updates the results at the cost of what changed; publishes only what passes the gate.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["rerank.depth=50"]` or `{"rerank.depth": 50}`.
        force_publish: why it is to be published although the gate fails or a rollback is in force;
            stored in the log.
        began: when the schedule started this run, so that all retries end at the first
            `budget.until` after it; without a time zone it is local time. None is now.
        progress: False for none, or the text stream that it is printed to.

    Returns:
        As `run`; `gate` has the findings.

    Raises:
        NightrankError: as `run`; E_GATE if the gate or a rollback holds the results back, with the
            findings in `details`.
    """
    request = Request(
        verb="nightly",
        gate=True,
        force_publish=force_publish,
        began=began.timestamp() if began else None,
    )
    return run_to_result(load_config(config, overrides), request, progress_of(progress))


def rank(
    config: Config,
    overrides: Overrides = (),
    *,
    index_generation: int | None = None,
    progress: bool | TextIO = True,
) -> Result:
    """Ranks the queries with a published index; the corpus is not read.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["rerank.depth=50"]` or `{"rerank.depth": 50}`.
        index_generation: number of the index; None takes the current one.
        progress: False for none, or the text stream that it is printed to.

    Returns:
        As `run`.

    Raises:
        NightrankError: as `run`; E_EMPTY if no index is published.
    """
    request = Request(verb="rank", scope="results", index_generation=index_generation)
    return run_to_result(load_config(config, overrides), request, progress_of(progress))


def reindex(
    config: Config,
    overrides: Overrides = (),
    *,
    force_publish: str = "",
    progress: bool | TextIO = True,
) -> Result:
    """Updates the index from the corpus; queries are not read.

    Args:
        config: path of a YAML file, a mapping or a `PipelineConfig`.
        overrides: `["rerank.depth=50"]` or `{"rerank.depth": 50}`.
        force_publish: why the index is to be published although more documents were removed than
            the gate allows.
        progress: False for none, or the text stream that it is printed to.

    Returns:
        A result with `index_generation` and without `generation`; `published` is False if the index
        was up to date.

    Raises:
        NightrankError: as `run`; E_GATE if too many documents were removed.
    """
    request = Request(verb="reindex", scope="index", gate=True, force_publish=force_publish)
    return run_to_result(load_config(config, overrides), request, progress_of(progress))


def instant(text: str) -> datetime.datetime | None:
    """An ISO 8601 time, e.g. of `--began`; None for an empty text.

    Raises:
        NightrankError: E_USAGE.
    """
    try:
        return datetime.datetime.fromisoformat(text) if text else None
    except ValueError:
        do = "write an ISO 8601 time, e.g. 2026-01-31T23:30Z"
        raise NightrankError("E_USAGE", f"--began {text!r} is not a time", "", do) from None
