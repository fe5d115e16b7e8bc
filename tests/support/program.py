"""The program: in a process of its own, as its users start it, or in this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nightrank.cli.app import app
from nightrank.cli.terminal import guarded


def nightrank(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs the program as its users do, in a process of its own."""
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "nightrank", *arguments],
        capture_output=True,
        text=True,
        timeout=220,
        env=environment,
        cwd=options.pop("cwd", Path(__file__).resolve().parents[2]),
        **options,
    )


def called(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert guarded(lambda **_: app(list(arguments))) == code
    found = capsys.readouterr()
    return found.err if code else found.out


def night(capsys: pytest.CaptureFixture[str], config: str, *more: str) -> dict[str, Any]:
    return json.loads(called(capsys, "nightly", config, "--json", *more))
