"""One training from its config to a model folder and `report.json`.

Retrieves candidates for every query of the configured collections by vectors and BM25, mines hard
negatives from both lists (or takes a teacher's lists), holds out dev queries, fine-tunes, chooses
the first stage's weight on the held-out queries, and writes the model and the report.

A training can be restarted: candidates, checkpoints and the best weights are in the work folder,
and the same config continues from there; another config or other data start from the beginning.
Queries that nearly duplicate a query of a `reported` set are dropped from training and counted.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from nightrank.config.running import Cluster
from nightrank.config.training import TrainConfig
from nightrank.errors import NightrankError
from nightrank.models.folders.files import file_digest
from nightrank.storage.fingerprint import fingerprint
from nightrank.training.candidates import read_collections
from nightrank.training.fine_tuning import DevOptions, fine_tune
from nightrank.training.groups import Draw
from nightrank.training.held_out import held_out_queries, hold_out
from nightrank.training.judged_collections import read_qrels, read_rows
from nightrank.training.loop import Options
from nightrank.training.mining import near_duplicates
from nightrank.training.sources import training_source
from nightrank.training.trainee import TraineeSettings, make_trainee

log = logging.getLogger("nightrank.train")


def train(config: TrainConfig) -> dict[str, Any]:
    """Trains, chooses the weight and writes the results, on as many workers as the config says.

    Returns:
        As `train_here`.

    Raises:
        NightrankError: E_CONFIG for unreadable data, E_EMPTY for a collection without a group,
            E_MODEL for a base that cannot be used, E_CLUSTER if workers fail.
    """
    if not config.workers:
        return train_here(config)
    from nightrank.runtime.ray_training import train_together  # Imports Ray.

    read_collections(config)  # Once, in this process: the workers read the stored candidates.
    places = {"data": config.data, "output": config.output, "work": str(config.work_folder)}
    absolute = {name: str(Path(path).resolve()) for name, path in places.items()}
    plain = config.model_copy(update=absolute).model_dump()
    cluster = Cluster(address=config.address)
    folder = f"{absolute['work']}/ray"
    train_together(
        cluster, _train_worker, plain, config.workers, config.threads, config.gpus, folder
    )
    return dict(json.loads((Path(config.output) / "report.json").read_text()))


def train_here(config: TrainConfig) -> dict[str, Any]:
    """Trains in this process, alone or as one of several, once candidates are there.

    Returns:
        The report: groups, dropped and held-out queries by collection, dev nDCG@10 by weight, the
        chosen weight, steps, pairs and wall time.
    """
    settings = config.model_dump()
    identity = {"config": config.semantic(), "inputs": input_digests(config)}
    checkpoints = config.work_folder / f"training-{fingerprint(identity)}"
    trainee = make_trainee(
        TraineeSettings(**{n: settings[n] for n in TraineeSettings.__dataclass_fields__})
    )
    reported = reported_queries(config)
    sources, dev_queries, report = [], {}, {}
    for part, collection in zip(config.collections, read_collections(config), strict=True):
        dropped = near_duplicates(collection.queries, reported)
        held_out = hold_out(collection, dropped, part.dev_queries, config.seed)
        source = training_source(
            collection,
            dropped | set(held_out),
            trainee.tokenizer,
            weight=part.weight,
            max_negatives=config.negative_pool,
            guard_ratio=part.guard_ratio,
        )
        if not source.examples:
            what = f"collection {part.name} gives no training group"
            do = "check its qrels (or teacher), dev_queries and reported sets"
            raise NightrankError("E_EMPTY", what, str(Path(config.data) / part.corpus), do)
        sources.append(source)
        if held_out:
            dev_queries[part.name] = held_out_queries(collection, held_out, trainee.tokenizer)
        counts = (len(source.examples), len(dropped), len(held_out))
        report[part.name] = dict(zip(("groups", "dropped", "held_out"), counts, strict=True))
        log.info("%s: %d groups, %d queries dropped, %d held out", part.name, *counts)
    own = {n: settings[n] for n in Options.__dataclass_fields__ if n != "draw"}
    draw = Draw(**{n: settings[n] for n in Draw.__dataclass_fields__})
    dev = DevOptions(
        config.candidates_depth, config.checkpoint_dev_queries, config.checkpoint_dev_depth
    )
    output, weight = Path(config.output), config.first_stage_weight
    fixed = None if weight == "auto" else weight
    options = Options(draw=draw, **own)
    result = fine_tune(
        trainee, sources, dev_queries, options, dev, checkpoints, output / "model", fixed
    )
    whole = {"collections": report} | result.to_dict()
    if result.config is not None:  # Only the first of several processes writes a model.
        whole["identity"] = identity
        (output / "report.json").write_text(json.dumps(whole, indent=2) + "\n")
    return whole


def _train_worker(plain: dict[str, Any]) -> None:
    """What each worker of Ray Train runs."""
    log_to_stderr()
    train_here(TrainConfig.model_validate(plain))


def log_to_stderr() -> None:
    """Logs the training's progress to standard error, a line with the time each."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)


def input_digests(config: TrainConfig) -> dict[str, str]:
    """The sha256 of every input file, by its path.

    Raises:
        NightrankError: E_CONFIG if a file cannot be read.
    """
    paths = [path for part in config.reported for path in (part.queries, part.qrels)]
    for part in config.collections:
        paths += [part.corpus, part.queries, *part.qrels]
        paths += [part.teacher] if part.teacher else []
    digests: dict[str, str] = {}
    for name in sorted(set(paths)):
        path = Path(config.data) / name
        files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
        try:
            digests |= {f"{name}#{file.name}": file_digest(file) for file in files}
        except OSError as error:
            what, do = f"cannot read: {error.strerror}", "correct data and its paths"
            raise NightrankError("E_CONFIG", what, str(path), do) from None
    return digests


def reported_queries(config: TrainConfig) -> list[str]:
    """Texts of all queries that scores are reported on."""
    texts: list[str] = []
    for part in config.reported:
        judged = read_qrels(Path(config.data) / part.qrels)
        rows = read_rows(Path(config.data) / part.queries)
        texts += [row["text"] for row in rows if row["_id"] in judged]
    return texts
