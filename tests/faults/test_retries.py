"""Every kind of fault of an S3 store, one at a time, against the store's own operations."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightrank.errors import NightrankError
from nightrank.storage.expiry import delete
from nightrank.storage.log import Log
from nightrank.storage.retries import Limits, Retries
from nightrank.storage.store import PART_BYTES, Store
from tests.support.proxy import KINDS, Faults, Proxy, error, proxy

pytestmark = pytest.mark.s3
BRIEF = {"tries": 3, "cap_seconds": 0.05}


@pytest.fixture(scope="module")
def failing(s3_url: str) -> Iterator[Proxy]:
    with proxy(os.environ["AWS_ENDPOINT_URL"]) as made:
        yield made


def store_at(endpoint: str, **retry: float) -> Store:
    options = {"endpoint_url": endpoint, "retry": retry}
    return Store(f"s3://lake/{uuid.uuid4().hex}", options)


@pytest.mark.parametrize("kind", ["slow_down", "internal_error", "conflict", "reset", "lost_reply"])
def test_a_conditional_put_creates_once_and_knows_its_own_write(failing: Proxy, kind: str) -> None:
    store = store_at(failing.url)
    failing.faults = Faults(only=[kind])
    assert store.put_if_absent("key", b"mine")
    assert failing.faults.counts() == {kind: 1}
    failing.faults = Faults(only=[kind])
    assert not store.put_if_absent("key", b"a rival's")
    assert failing.faults.counts() == {kind: 1}
    assert store.read("key") == b"mine"


@pytest.mark.parametrize("kind", ["slow_down", "internal_error", "reset", "lost_reply"])
def test_listings_deletions_and_reads_are_repeated(failing: Proxy, kind: str) -> None:
    store = store_at(failing.url)
    store.put_if_absent("folder/key", b"content")
    failing.faults = Faults(only=[kind, kind])
    assert store.files("folder") == {"key": 7}
    failing.faults = Faults(only=[kind])
    with pytest.raises(FileNotFoundError):
        store.read("folder/none")
    failing.faults = Faults(only=[kind])
    assert store.read("folder/key", 2, 5) == b"nte"
    assert failing.faults.counts() == {kind: 1}


def test_a_deletion_is_not_taken_for_done_because_the_reply_is_200(failing: Proxy) -> None:
    store = store_at(failing.url)
    for name in ("a", "b"):
        store.put_if_absent(f"folder/{name}", b"content")
    failing.faults = Faults(only=["delete_denied"])
    with pytest.raises(NightrankError, match="s3:DeleteObject refused.*folder") as caught:
        delete(store, ["folder/a", "folder/b"])
    assert caught.value.code == "E_AUTH" and len(store.files("folder")) == 2
    failing.faults = Faults(only=["delete_failed", "delete_failed"])
    delete(store, ["folder/a", "folder/b"])
    assert not failing.faults.only and not store.files("folder")


def test_a_body_that_breaks_off_is_read_again(failing: Proxy) -> None:
    store, content = store_at(failing.url), os.urandom(50_000)
    store.put_if_absent("key", content)
    failing.faults = Faults(only=["truncated", "truncated"])
    assert store.read("key") == content
    failing.faults.only = ["truncated"]
    assert store.read("key", 100, 40_000) == content[100:40_000]
    failing.faults.only = ["truncated"]
    with store.open_file("key") as file:
        file.seek(7)
        assert file.read(40_000) == content[7:40_007]
    assert failing.faults.counts() == {"truncated": 4}


@pytest.mark.parametrize("kind", ["bad_complete", "lost_reply", "internal_error", "reset"])
def test_an_upload_in_parts_completes_once(failing: Proxy, kind: str) -> None:
    """The fault hits the completion; after a lost reply the next try finds no such upload."""

    class AtCompletion(Faults):
        def choose(self, request: object) -> str:
            left, self.only = self.only, self.only if request.completes else []  # type: ignore[attr-defined]
            chosen = super().choose(request)  # type: ignore[arg-type]
            self.only = self.only if chosen else left
            return chosen

    store = store_at(failing.url)
    content = os.urandom(1 << 20) * (2 * PART_BYTES >> 20) + b"end"
    failing.faults = AtCompletion(only=[kind])
    size, _ = store.write("data/part", lambda file: file.write(content))
    assert failing.faults.counts() == {kind: 1}
    assert store.files("data") == {"part": size}
    assert store.read("data/part", size - 5) == content[-5:]


@pytest.mark.parametrize("kind", ["slow_down", "reset"])
def test_a_store_that_does_not_recover_ends_as_exit_9(failing: Proxy, kind: str) -> None:
    store = store_at(failing.url, **BRIEF)
    failing.faults = Faults(rates={kind: 1.0})
    with pytest.raises(NightrankError, match="3 tries of .*the same command resumes") as caught:
        store.put_if_absent("results/_log/1", b"entry")
    assert caught.value.exit_code == 9
    assert failing.faults.requests <= 2 * 3, "somebody below retries, too"
    failing.faults = Faults()
    assert store.put_if_absent("results/_log/1", b"entry")


def test_rivals_publish_in_one_order_through_all_faults(failing: Proxy) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = store_at(failing.url)
    rates = {kind: 0.05 for kind in KINDS if kind != "bad_complete"}
    failing.faults = Faults(rates=rates, seed=3)

    def publish(writer: int) -> int:
        return Log(store, "results").append({"writer": writer}, watermark=0).generation

    with ThreadPoolExecutor(4) as pool:
        numbers = sorted(pool.map(publish, range(8)))
    assert numbers == Log(store, "results").generations() == list(range(1, 9))
    assert len(failing.faults.counts()) >= 4


def test_the_budget_bounds_the_retries_of_a_process() -> None:
    account = Retries(Limits(burst=20, share=0.1))
    waits = [account.wait(1) for _ in range(30)]
    assert [wait is None for wait in waits] == [False] * 20 + [True] * 10
    for _ in range(1000):
        account.succeeded()
    granted = sum(account.wait(1) is not None for _ in range(100))
    assert granted == 20, "a bucket holds no more than it was made for"
    for _ in range(100):
        account.succeeded()
    assert sum(account.wait(1) is not None for _ in range(100)) in (9, 10)


def test_waits_grow_to_the_cap_and_end_with_the_tries() -> None:
    account = Retries(Limits(tries=6, cap_seconds=5.0, burst=100_000))
    most = [max(w for _ in range(300) if (w := account.wait(n)) is not None) for n in range(1, 6)]
    for longest, limit in zip(most, (0.1, 0.8, 5.0, 5.0, 5.0), strict=True):
        assert 0.8 * limit < longest <= limit
    assert account.wait(6) is None


@pytest.mark.parametrize("plain", [{"trys": 3}, {"tries": 0}, {"share": "much"}, {"burst": 1.5}, 7])
def test_limits_that_are_none_are_refused(plain: object) -> None:
    with pytest.raises(NightrankError, match=r"E_CONFIG.*storage_options\.retry"):
        Limits.of(plain)


def test_hours_of_skew_are_named(s3_url: str, tmp_path: Path) -> None:
    """S3 refuses a signature that is too old; moto does not look, so the refusal is the proxy's."""
    refused = _refused("RequestTimeTooSkewed", 403, s3_url, date="Wed, 01 Jan 2025 00:00:00 GMT")
    assert refused.exit_code == 3 and "s ahead of the store's" in str(refused)


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "InvalidAccessKeyId"])
def test_a_refusal_names_the_action_and_the_prefix_and_no_key(s3_url: str, code: str) -> None:
    refused = _refused(code, 400 if code == "ExpiredToken" else 403, s3_url)
    assert refused.exit_code == 3 and refused.code == "E_AUTH"
    told = str(refused)
    assert "s3:PutObject" in told and "s3://lake/secretive/folder" in told
    assert "AKIACANARY" not in told and "canary" not in told


def _refused(code: str, status: int, s3_url: str, date: str = "") -> NightrankError:
    """What is told of a store that refuses every request with a body that names the key."""

    class Refusing(Proxy):
        async def _forward(self, request: object) -> tuple[bytes, bytes]:
            await super()._forward(request)  # type: ignore[arg-type]
            body = error(status, code, "PUT", message="AKIACANARY canary", date=date)
            return body, b""

    made = Refusing(os.environ["AWS_ENDPOINT_URL"])
    try:
        store = Store("s3://lake/secretive", {"endpoint_url": made.url})
        with pytest.raises(NightrankError) as caught:
            store.put_if_absent("folder/key", b"x")
        assert made.faults.requests <= 2, "a refusal is not asked again but for new credentials"
        return caught.value
    finally:
        made.close()


def test_a_missing_endpoint_is_told_in_one_line(tmp_path: Path) -> None:
    script = (
        "from nightrank.storage.store import Store\n"
        "from nightrank.errors import NightrankError\n"
        "retry = {'tries': 2, 'cap_seconds': 0.01}\n"
        "store = Store('s3://lake/x', {'endpoint_url': 'http://127.0.0.1:9', 'retry': retry})\n"
        "try:\n    store.probe()\nexcept NightrankError as error:\n    print(error)\n"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "E_STORE_RETRY" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert time.monotonic() - began < 60
