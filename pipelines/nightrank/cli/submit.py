"""Runs a verb as a job of a Ray cluster: `nightrank submit CONFIG`.

nightrank submit my.yaml --address http://head:8265
nightrank submit my.yaml --verb nightly --no-wait
nightrank submit my.yaml --set rerank.depth=50 -- --to merge     # after --: the verb's own options
nightrank submit my.yaml --stop

The same command joins the job while it runs, and starts the next attempt once it has ended, so it
can be repeated. Exits with the job's own exit code.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from nightrank.cli.terminal import ConfigPath, Sets

if TYPE_CHECKING:
    from nightrank.config.schema import PipelineConfig
    from nightrank.runtime.ray_jobs import RayJobs


class Verb(StrEnum):
    """Verbs that a job can run."""

    run = "run"
    nightly = "nightly"
    reindex = "reindex"
    rank = "rank"


Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[-- OPTIONS]", help="Options of the verb itself.")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="URL",
        help="http://head:8265; else cluster.address, RAY_ADDRESS, or this machine's cluster.",
    ),
]
What = Annotated[Verb, typer.Option("--verb", help="What to run there.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Print the submission id and exit.")]
Stop = Annotated[bool, typer.Option("--stop", help="Stop the job that this command started.")]
ShipCode = Annotated[
    bool,
    typer.Option("--ship-code", help="Send this machine's code: the image has none."),
]


def submit(
    config: ConfigPath,
    arguments: Arguments = None,
    sets: Sets = None,
    address: Address = None,
    verb: What = Verb.run,
    no_wait: NoWait = False,
    stop: Stop = False,
    ship_code: ShipCode = False,
) -> None:
    """Runs a verb on a cluster with this config, follows it, and exits with its exit code."""
    from nightrank.config.file import load_config
    from nightrank.runtime.ray_jobs import RayJobs

    loaded = load_config(config, sets or [])
    shipped = portable(loaded)
    options = list(arguments or [])
    stem = submission_stem(loaded.name, verb.value, shipped, options)
    cluster = RayJobs(address or loaded.cluster.address)
    if stop:
        _stop(cluster, stem)
        return
    if local := local_paths(loaded):
        _say(f"local paths, which every node must see: {', '.join(local)}")
    send_models(shipped)
    # Under its own name: the job's closing lines repeat it.
    name = Path(config).name
    command = entrypoint(verb.value, f"./{name}", options)
    with tempfile.TemporaryDirectory(prefix="nightrank-") as folder:
        Path(folder, name).write_bytes(shipped)
        environment: dict[str, Any] = {"working_dir": folder}
        if ship_code:
            environment["py_modules"] = _code()
        facts = {"nightrank": loaded.name, "verb": verb.value, "config": _sha256(shipped)}
        job, fresh = cluster.submit(stem, command, environment, facts)
    _say(f"{'submitted' if fresh else 'joined'} {job.id} on {cluster.address}")
    if no_wait:
        print(job.id)
        return
    try:
        job = cluster.follow(job.id, _write)
    except KeyboardInterrupt:
        _say(
            f"{job.id} continues and is not followed any more; the same command with --stop ends it"
        )
        raise
    raise typer.Exit(job.exit_code)


def entrypoint(verb: str, config: str, options: list[str]) -> str:
    """The command that a job runs on the cluster.

    It is what a script of `jobs/` does, and what the manifests of `infra/` name. Scripts are in a
    checkout alone; the module is in every environment that has the package.
    """
    return shlex.join(["python", "-m", "nightrank", verb, config, *options])


def portable(config: PipelineConfig) -> bytes:
    """The config as the job reads it: overrides applied, local paths absolute.

    A path means what it means where the command is typed. `cluster.address` is left out, for the
    job is inside the cluster. A config holds no secrets (see `PipelineConfig`).
    """
    plain = config.model_dump(mode="json", exclude_unset=True)
    plain.get("cluster", {}).pop("address", None)
    plain["root"] = _absolute(config.root)
    for section, key in (("corpus", "path"), ("queries", "path"), ("evaluate", "qrels")):
        if plain.get(section, {}).get(key):
            plain[section][key] = _absolute(plain[section][key])
    steps = plain.get("rerank", [])
    for holder in (plain.get("encoder", {}), *steps):
        folder = os.path.expanduser(holder.get("model", ""))
        if folder and os.path.isdir(folder):
            holder["model"] = os.path.abspath(folder)
    return orjson.dumps(plain, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


def send_models(shipped: bytes) -> None:
    """Copies this machine's models into the lake: the cluster need not have them."""
    from nightrank.config.schema import PipelineConfig
    from nightrank.generations.results import open_lake
    from nightrank.models.stored import send

    config = PipelineConfig.model_validate(orjson.loads(shipped))
    store = open_lake(config.root, config.name, config.storage_options)
    send(store, config.encoder.model, config.encoder.revision, _say)
    for step in config.rerank:
        send(store, step.model, step.revision, _say)


def local_paths(config: PipelineConfig) -> list[str]:
    """Keys of the config whose path is on a disk and not in an object store."""
    from nightrank.storage.filesystem import is_remote

    paths = {
        "root": config.root,
        "corpus.path": config.corpus.path,
        "queries.path": config.queries.path,
        "evaluate.qrels": config.evaluate.qrels,
    }
    return [key for key, path in paths.items() if path and not is_remote(path)]


def submission_stem(name: str, verb: str, shipped: bytes, options: list[str]) -> str:
    """What is asked for, as the stem of a submission id.

    The whole config enters, how to run included: a second submission with other workers is
    another job, and not ignored. (Two jobs of one plan share the work and publish once.)
    """
    digest = _sha256(orjson.dumps([shipped.decode(), options]))
    return f"nightrank-{name}-{verb}-{digest[:12]}"


def _absolute(path: str) -> str:
    from nightrank.storage.filesystem import is_remote

    return path if is_remote(path) else os.path.abspath(path.removeprefix("file://"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _code() -> list[str]:
    """The folder of this program's own package."""
    import nightrank

    return [str(Path(nightrank.__file__ or "").parent)]


def _stop(cluster: RayJobs, stem: str) -> None:
    job = cluster.newest(stem)
    if job is None or job.ended:
        _say(f"nothing to stop: no job {stem}.* is running on {cluster.address}")
        return
    ended = cluster.stop(job.id)
    _say(f"{ended.id} has ended ({ended.status.lower()}); the same command without --stop resumes")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(f"nightrank: {text}", file=sys.stderr, flush=True)
