"""Several gateway processes on one address."""

import contextlib
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from finery_gateway.server import Address, Serving
from finery_gateway.workers.supervisor import GatewayWorkers
from finery_shared.errors import FineryError
from finery_shared.log import logger
from tests.fakes.samples import parse, value
from tests.integration.gateway.processes import Process, Processes, wait_until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
STREAMS = 24


@pytest.fixture
def gateway(processes: Processes) -> Iterator[Process]:
    """Two workers before a model that takes three seconds for an answer."""
    backend = processes.inference("--pieces", "30", "--delay", "0.1")
    gateway = processes.gateway(backend, FINERY_GATEWAY_WORKERS="2")
    gateway.address()
    workers = gateway.children()
    yield gateway
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


def stream(gateway: Process) -> str:
    """What one stream brings, over a connection of its own; ends with "broken" when the connection was cut."""
    text = ""
    request = BODY | {"stream": True}
    try:
        with httpx.stream("POST", f"http://{gateway.address()}/v1/chat/completions", json=request) as answer:
            for piece in answer.iter_text():
                text += piece
    except httpx.HTTPError:
        text += "broken"
    return text


def connections(worker: psutil.Process) -> int:
    return sum(c.status == psutil.CONN_ESTABLISHED for c in worker.net_connections("tcp"))


def test_connections_are_spread_and_a_killed_worker_takes_only_its_own_along(gateway: Process) -> None:
    first, second = gateway.children()
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, gateway) for _ in range(STREAMS)]
        # One connection of each goes to the inference process.
        wait_until(lambda: connections(first) + connections(second) == STREAMS + 2)
        of_first = connections(first) - 1
        assert 0 < of_first < STREAMS
        first.kill()
        ends = [stream.result() for stream in streams]
    assert sum(end.endswith("broken") for end in ends) == of_first
    assert not any("[DONE]" in end for end in ends if end.endswith("broken"))
    assert sum(end.endswith("data: [DONE]\n\n") for end in ends) == STREAMS - of_first
    wait_until(lambda: len(gateway.children()) == 2 and first not in gateway.children())
    with ThreadPoolExecutor(STREAMS) as pool:
        answers = pool.map(lambda _: httpx.post(f"http://{gateway.address()}/v1/chat/completions", json=BODY), range(8))
        assert [answer.status_code for answer in answers] == [200] * 8


def test_sigterm_lets_the_streams_of_all_workers_finish(gateway: Process) -> None:
    workers = gateway.children()
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, gateway) for _ in range(STREAMS)]
        wait_until(lambda: sum(map(connections, workers)) == STREAMS + 2)
        gateway.terminate()
        assert all(stream.result().endswith("data: [DONE]\n\n") for stream in streams)
    assert gateway.exit_status() == 0
    assert not any(worker.is_running() for worker in workers)


def test_workers_end_with_a_killed_supervisor(gateway: Process) -> None:
    workers = gateway.children()
    gateway.kill()
    gateway.exit_status()
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_workers_end_with_a_supervisor_that_was_killed_before_they_served(processes: Processes) -> None:
    gateway = processes.gateway(processes.inference(), FINERY_GATEWAY_WORKERS="2")
    wait_until(lambda: len(gateway.children()) == 2)
    workers = gateway.children()
    gateway.kill()
    gateway.exit_status()
    assert psutil.wait_procs(workers, timeout=30)[1] == []


def test_a_port_that_other_workers_share_is_in_use(gateway: Process, processes: Processes) -> None:
    shared = {"FINERY_GATEWAY_WORKERS": "2", "FINERY_GATEWAY_LISTEN": gateway.address()}
    second = processes.gateway(processes.inference(), **shared)
    assert second.exit_status() == 1
    assert f"{gateway.address()} is in use by another process. Set FINERY_GATEWAY_LISTEN" in second.log()


async def test_a_worker_that_cant_start_is_told() -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    workers = GatewayWorkers(Address("127.0.0.1", 0), 2, Serving(1.0), logger("test"), command=command)
    with pytest.raises(FineryError, match="ended at its start with status 3"):
        await workers.start()
    await workers.stop()


async def test_a_worker_that_cant_even_be_begun_is_told() -> None:
    workers = GatewayWorkers(Address("127.0.0.1", 0), 2, Serving(1.0), logger("test"), command=("/no/such/program",))
    with pytest.raises(FineryError, match="A gateway worker can't be started"):
        await workers.start()
    await workers.stop()


def test_each_worker_tells_of_all(processes: Processes) -> None:
    gateway = processes.gateway(processes.inference(), FINERY_GATEWAY_WORKERS="2")
    url = f"http://{gateway.address()}"
    for _ in range(20):  # over a connection of its own each, so that both workers have some
        assert httpx.post(f"{url}/v1/chat/completions", json=BODY).status_code == 200
    wait_until(lambda: all(_total(url) == 20 for _ in range(8)))
    first, _ = gateway.children()
    first.kill()
    wait_until(lambda: len(gateway.children()) == 2 and first not in gateway.children())
    assert _total(url) == 20
    gateway.terminate()
    assert gateway.exit_status() == 0


def _total(url: str) -> float | None:
    labels = {"model": "toy", "endpoint": "/v1/chat/completions", "status": "200"}
    return value(parse(httpx.get(f"{url}/metrics").text), "finery_gateway_requests_total", **labels)


def test_what_a_killed_worker_had_in_flight_is_over(gateway: Process) -> None:
    url = f"http://{gateway.address()}"
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, gateway) for _ in range(STREAMS)]
        wait_until(lambda: _in_flight(url) == STREAMS)
        first, _ = gateway.children()
        first.kill()
        wait_until(lambda: (_in_flight(url) or 0) < STREAMS)
        assert all(stream.result() for stream in streams)
    wait_until(lambda: _in_flight(url) == 0)


def _in_flight(url: str) -> float | None:
    return value(parse(httpx.get(f"{url}/metrics").text), "finery_gateway_requests_in_flight")
