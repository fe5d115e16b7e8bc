"""A port that another program has, and an address where no Ray answers, are named at once."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from nightrank.config.running import Cluster
from nightrank.errors import NightrankError
from nightrank.runtime import ray_address
from nightrank.runtime.ray_address import refuse_unreachable
from nightrank.runtime.ray_cluster import connect, no_cluster
from tests.support.network import free_port


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(ray_address, "ANSWER_SECONDS", 0.2)


@contextlib.contextmanager
def silent() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def web() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def refused(cluster: Cluster) -> str:
    with pytest.raises(NightrankError) as caught:
        connect(cluster)
    assert caught.value.code == "E_CLUSTER" and caught.value.exit_code == 9
    return str(caught.value)


def test_a_port_that_is_taken_is_named_before_ray_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with silent() as port:
        monkeypatch.setenv("RAY_GCS_SERVER_PORT", str(port))
        said = refused(Cluster())
    assert f"port {port} of this machine is taken" in said and "`ray stop`" in said


@pytest.mark.parametrize("program", [silent, web])
def test_another_program_at_the_address_is_no_ray(
    program: contextlib.AbstractContextManager[int],
) -> None:
    with program() as port:  # type: ignore[operator]
        said = refused(Cluster(address=f"127.0.0.1:{port}"))
    assert f"port {port} is taken by a program that is not Ray (127.0.0.1:{port})" in said


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens_is_named(scheme: str) -> None:
    port = free_port()
    said = refused(Cluster(address=f"{scheme}127.0.0.1:{port}"))
    assert f"nothing answers on port {port}: Connection refused" in said


@pytest.mark.ray
def test_a_ray_answers(ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray_address, "ANSWER_SECONDS", 5.0)
    refuse_unreachable(ray.get_runtime_context().gcs_address)
    for name in ("auto", "local"):
        refuse_unreachable(name)


def test_a_ray_of_another_version_is_told_in_one_line_with_both_versions() -> None:
    import ray
    from ray._private.utils import check_version_info

    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.9.0", "python_version": "3.11.0"}, "here")
    said = str(no_cluster(caught.value, "auto"))
    assert "2.9.0" in said and ray.__version__ in said and "\n" not in said
    assert "`ray stop` ends a leftover Ray" in said
