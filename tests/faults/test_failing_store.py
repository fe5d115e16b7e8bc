"""Whole runs on an S3 store that fails: everything is published, once, with the same rows."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nightrank.cli.verify import verify
from nightrank.storage.store import Store
from tests.support.collection import Collection
from tests.support.lake import digests as local_digests
from tests.support.lake import run
from tests.support.program import nightrank
from tests.support.proxy import Faults, Proxy, proxy

pytestmark = [pytest.mark.s3, pytest.mark.timeout(900)]
RATES = {
    "slow_down": 0.025,
    "internal_error": 0.02,
    "conflict": 0.03,  # Of conditional puts only: about a tenth of all requests.
    "lost_reply": 0.02,
    "reset": 0.02,
    "truncated": 0.01,
}


@pytest.fixture(scope="module")
def failing(s3_url: str) -> Iterator[Proxy]:
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(small: Collection, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "c.yaml").write_text(json.dumps(config(small, folder / "lake")))
    run(str(folder / "c.yaml"))
    return local_digests(folder / "lake")


def config(small: Collection, root: object, **retry: float) -> dict[str, Any]:
    layout = {"document_shard_rows": 100, "query_shard_rows": 12}
    return small.config(str(root), layout=layout, storage_options={"retry": retry} if retry else {})


def digests(store: Store) -> dict[str, list[str]]:
    files = store.files("tiny/results/_log")
    assert len(files) == 1, "published other than once"
    entry = json.loads(store.read(f"tiny/results/_log/{next(iter(files))}"))
    return {name: [f["sha256"] for f in made] for name, made in entry["files"].items()}


def test_three_runs_through_a_failing_store_publish_once_and_the_same(
    small: Collection,
    failing: Proxy,
    s3_url: str,
    undisturbed: Any,
    write_config: Callable[..., str],
) -> None:
    """A twentieth of the requests answered by 5xx, as many lost or reset, an outage of 10 s."""

    def through(name: str, faults: Faults) -> str:
        failing.faults = faults
        # Limits of its own, so that no other test has spent the budget.
        plain = config(small, f"{s3_url}/{name}", burst=199)
        plain["storage_options"]["endpoint_url"] = failing.url
        path = write_config(plain, f"{name}.yaml")
        run(path)
        return path

    through("clean", Faults())
    clean = failing.faults.requests
    injected: Counter[str] = Counter()
    disturbed = 0
    for number in range(3):
        outage = {"outage_at": clean // 2, "outage_seconds": 10.0} if number == 1 else {}
        path = through(f"disturbed{number}", Faults(rates=RATES, seed=number, **outage))
        injected += failing.faults.counts()
        disturbed += failing.faults.requests
        failing.faults = Faults()
        assert digests(Store(f"{s3_url}/disturbed{number}")) == undisturbed
        verify(path)
    assert set(injected) == {*RATES, "outage"}, f"void: not every kind came, {injected}"
    assert disturbed <= 1.25 * 3 * clean


def test_an_outage_beyond_the_limits_is_exit_9_and_the_same_command_completes(
    small: Collection,
    failing: Proxy,
    s3_url: str,
    undisturbed: Any,
    write_config: Callable[..., str],
) -> None:
    plain = config(small, f"{s3_url}/outage", tries=3, cap_seconds=0.2)
    plain["storage_options"]["endpoint_url"] = failing.url
    path = write_config(plain)
    failing.faults = Faults(outage_at=200, outage_seconds=math.inf)
    stopped = nightrank("run", path)
    assert stopped.returncode == 9, stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith("nightrank: error[E_STORE_RETRY]")
    assert "the same command resumes" in stopped.stderr and "Traceback" not in stopped.stderr
    assert Store(f"{s3_url}/outage").files("tiny/results/_log") == {}
    failing.faults = Faults()
    done = nightrank("run", path)
    assert done.returncode == 0, done.stderr
    assert digests(Store(f"{s3_url}/outage")) == undisturbed
