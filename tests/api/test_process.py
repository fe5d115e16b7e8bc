"""A caller's process: a script, a notebook, a driver of a running Ray cluster."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import nightrank
from nightrank.api.process import SET_BY_UNITS
from tests.support.cluster import ON_RAY
from tests.support.collection import Collection
from tests.support.published import Published

SCRIPT = """
import json, sys
import nightrank
assert not {"pyarrow", "pydantic", "numpy", "ray"} & set(sys.modules)
assert set(nightrank.__all__) <= set(dir(nightrank))
config = json.loads(sys.argv[1])
result = nightrank.run(config)
print(result.ranked.count_rows(), repr(result))
try:
    nightrank.run(config, {"corpus.path": "missing.jsonl"})
except nightrank.NightrankError as error:
    print(error.code, error.exit_code)
assert not {"ray", "torch", "typer"} & set(sys.modules)
"""


def test_a_plain_script_gets_results_and_errors(small: Collection, tmp_path: Path) -> None:
    config = small.config(tmp_path / "lake", evaluate={"qrels": None})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(config)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "60 Result(generation=1, ranked_rows=60)\nE_EMPTY 4\n"
    # Progress goes to standard error, a line for each stage, and so does nothing else.
    lines = done.stderr.splitlines()
    assert all(line.startswith(("stage ", "index generation 1")) for line in lines)
    assert sum(" done " in line for line in lines) == 21


def test_every_name_of_the_api_is_documented() -> None:
    for name in nightrank.__all__:
        assert getattr(nightrank, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        _ = nightrank.runs  # type: ignore[attr-defined]


def test_a_call_leaves_the_process_as_it_was(small: Collection, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    before = {name: os.environ.get(name) for name in SET_BY_UNITS}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    folder, path = os.getcwd(), list(sys.path)
    config = small.config(tmp_path / "lake", evaluate={"qrels": None})
    nightrank.run(config, progress=False)
    nightrank.plan(config)
    assert {name: os.environ.get(name) for name in SET_BY_UNITS} == before
    assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    assert (os.getcwd(), sys.path) == (folder, path)
    assert pa.array(pandas.Series([1.0, None]), from_pandas=True).null_count == 1


class Kernel(io.StringIO):
    """The standard output of a Jupyter kernel: no terminal."""

    def isatty(self) -> bool:
        return False


def test_a_notebook_shows_plain_progress_in_standard_output(
    small: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = types.ModuleType("IPython")  # As a kernel has it.
    module.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", module)
    kernel = Kernel()
    monkeypatch.setattr(sys, "stdout", kernel)
    monkeypatch.setattr(sys, "stderr", None)  # Nothing is printed there.
    config = small.config(tmp_path / "lake")
    result = nightrank.run(config)
    shown = kernel.getvalue()
    assert "stage  1 of 22  ingest corpus" in shown and "evaluate" in shown.splitlines()[-1]
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert result.generation == 1
    nightrank.run(config, progress=False)
    assert kernel.getvalue() == shown
    with pytest.raises(nightrank.NightrankError):  # Neither SystemExit nor a printed line.
        nightrank.run(config, {"queries.path": "missing.jsonl"})
    assert kernel.getvalue() == shown


def test_progress_goes_to_the_stream_that_is_given(published: Published) -> None:
    stream = io.StringIO()
    nightrank.run(published.config, progress=stream)
    assert stream.getvalue().startswith("this plan is already published and current: nothing to do")


class Interrupted(io.StringIO):
    """A stream that stops the run, as Ctrl-C does, when the stage `merge` is done."""

    def write(self, text: str) -> int:
        if "merge" in text:
            raise KeyboardInterrupt
        return len(text)


def test_an_interrupted_call_is_recorded_and_resumes(small: Collection, tmp_path: Path) -> None:
    config = small.config(tmp_path / "lake", evaluate={"qrels": None})
    with pytest.raises(KeyboardInterrupt):
        nightrank.run(config, progress=Interrupted())
    [unfinished] = nightrank.status(config).unfinished
    assert unfinished.runs.ended["event"] == "run_failed"
    assert unfinished.runs.ended["what"] == "KeyboardInterrupt"
    resumed = nightrank.run(config, progress=False)
    assert resumed.generation == 1 and resumed.units["merge"] == 0


def test_a_call_works_outside_the_main_thread(small: Collection, tmp_path: Path) -> None:
    config = small.config(tmp_path / "lake", evaluate={"qrels": None})
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(nightrank.run(config, progress=False)))
    thread.start()
    thread.join()
    assert results[0].generation == 1


@pytest.mark.ray
def test_a_running_cluster_is_used_and_left_running(
    ray_cluster: None, published: Published, tmp_path: Path
) -> None:
    import ray

    nodes = [node["NodeID"] for node in ray.nodes()]
    # An address that nobody answers at: the caller's cluster comes first.
    cluster = {**ON_RAY, "address": "127.0.0.1:1"}
    config = published.collection.config(tmp_path / "lake", cluster=cluster)
    result = nightrank.run(config, progress=False)
    assert result.ranked.to_table().equals(published.result.ranked.to_table())

    @ray.remote(num_cpus=0)
    def in_a_task() -> Any:
        return nightrank.run(config, {"results.keep": 2}, progress=False)

    second = ray.get(in_a_task.remote())
    assert second.generation == 2 and second.ranked.count_rows() == 24
    assert nightrank.evaluate(config, {"evaluate.measures": ["P@3"]}).generation == 2
    assert ray.is_initialized() and [node["NodeID"] for node in ray.nodes()] == nodes
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    with pytest.raises(nightrank.NightrankError):
        nightrank.run(config, {"corpus.path": str(tmp_path / "missing.jsonl")})
    assert ray.is_initialized()
