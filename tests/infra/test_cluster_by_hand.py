"""docs/cluster.md: every command is one that Ray or this program takes, and means what it says."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from ray.scripts.scripts import start

from nightrank.config.running import STANDARD_POOLS
from nightrank.runtime.ray_cluster import POOL_LABEL
from tests.support.commands import parse
from tests.support.manifests import INFRA

TEXT = (INFRA.parent / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]


def started(words: list[str]) -> dict[str, Any]:
    """What Ray understands of `ray start …`; raises where it would refuse an option."""
    return dict(start.make_context("start", words[2:]).params)


NODES = [started(words) for words in LINES if words[:2] == ["ray", "start"]]


def test_the_nodes_are_a_head_without_units_and_one_of_each_pool() -> None:
    head, *workers = NODES
    assert head["head"] and head["num_cpus"] == 0 and head["port"] == 6379
    assert head["dashboard_host"] == "0.0.0.0" and head["dashboard_port"] == 8265
    assert [node["labels"] for node in workers] == [
        f"{POOL_LABEL}={pool}" for pool in ("general", "model", "index")
    ]
    assert {node["labels"].partition("=")[2] for node in workers} == set(STANDARD_POOLS)
    for node in workers:
        assert node["address"] == "HEAD:6379" and not node["head"]
        assert (node["num_gpus"] == 1) == (not node["labels"].endswith("general"))
    assert all(node["block"] and node["metrics_export_port"] == 8080 for node in NODES)


def test_commands_of_the_program_are_taken() -> None:
    mine = [words[1:] for words in LINES if words[0] == "nightrank"]
    assert [words[0] for words in mine] == ["doctor", "run", "submit", "nightly"]
    for words in mine:
        parse(words)


def test_nothing_else_is_typed() -> None:
    known = (
        ["umask", "077"],
        ["ray", "start"],
        ["ray", "get-auth-token"],
        ["export", "RAY_AUTH_MODE=token"],
    )
    assert all(words[:2] in known or words[0] == "nightrank" for words in LINES)


@pytest.mark.ray
def test_the_token_is_written_where_the_text_says(tmp_path: Path) -> None:
    (block,) = (block for block in BLOCKS if "get-auth-token" in block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        ["bash", "-ec", block],
        env={**env, "HOME": str(tmp_path), "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    file = tmp_path / ".ray" / "auth_token"
    assert file.read_text().strip() in done.stdout and len(file.read_text().strip()) >= 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_unit_file_starts_a_node_that_the_text_has() -> None:
    (text,) = re.findall(r"```ini\n(.*?)```", TEXT, re.DOTALL)
    unit = ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    node = started(["ray", *shlex.split(unit["Service"]["ExecStart"])[1:]])
    assert node["labels"] == f"{POOL_LABEL}=general" and node["block"]
    assert "RAY_AUTH_MODE=token" in unit["Service"]["Environment"].split()
