"""A program whose work is done in a child ends as the child ends, and says what ended it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
from nightrank.runtime import supervisor
from nightrank.cli.terminal import program

def app(**_):
    print("begun", flush=True)
    supervisor.supervise("head:6379")
    print(os.getpid(), flush=True)
    {}

program(app)
"""


def start(does: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", PROGRAM.format(does)]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def child_of(process: subprocess.Popen[str]) -> int:
    assert process.stdout and process.stdout.readline() == "begun\n"
    child = int(process.stdout.readline())
    assert child != process.pid
    return child


@pytest.mark.parametrize(
    ("does", "code", "words"),
    [
        ("", 0, ""),
        ("sys.exit(7)", 7, ""),
        ("os._exit(1)", 9, "nightrank: error[E_CLUSTER]: Ray ended this run's process"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 8, "nightrank: error[E_OOM]: this run's process"),
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            139,
            "nightrank: this run's process was killed by SIGSEGV",
        ),
    ],
)
def test_it_ends_as_the_child_ends(does: str, code: int, words: str) -> None:
    process = start(does)
    child_of(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors.startswith(words) and errors.count("\n") == bool(words)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_comes_to_the_child_once(number: int, code: int) -> None:
    process = start("time.sleep(60)")
    child_of(process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == "nightrank: stopped; the same command resumes\n"


@pytest.mark.parametrize(
    ("first", "does"),
    [
        ("os.register_at_fork(before=stop)", ""),
        ("os.register_at_fork(after_in_parent=stop)", ""),
        ("Gone = type('Gone', (), {'__del__': stop})", "Gone()"),
    ],
)
def test_a_signal_is_not_lost_where_python_hands_no_exception_on(first: str, does: str) -> None:
    first = f"stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n{first}"
    program = PROGRAM.format(f"{does}; time.sleep(60)".lstrip("; "))
    command = [sys.executable, "-c", program.replace("\ndef app", f"\n{first}\ndef app")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 143
    assert ended.stderr == "nightrank: stopped; the same command resumes\n"


def test_a_killed_parent_takes_the_child_along() -> None:
    process = start("time.sleep(60)")
    child = child_of(process)
    process.kill()
    process.communicate(timeout=60)
    until = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
