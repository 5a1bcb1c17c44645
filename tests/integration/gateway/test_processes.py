"""The gateway as a process of its own, over inference processes that die."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.gateway.processes import Process, Processes, wait_until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


def url(gateway: Process) -> str:
    return f"http://{gateway.address()}"


def test_starts_answers_and_stops(processes: Processes) -> None:
    gateway = processes.gateway(processes.inference())
    answer = httpx.post(f"{url(gateway)}/v1/chat/completions", json=BODY)
    assert answer.json()["choices"][0]["message"]["content"] == "piece0 piece1 piece2 "
    gateway.terminate()
    assert gateway.exit_status() == 0
    assert not gateway.announcement.exists()
    lines = [json.loads(line) for line in gateway.log().splitlines()]
    assert [line["path"] for line in lines if line["event"] == "request"] == ["/v1/chat/completions"]


def test_port_in_use(processes: Processes) -> None:
    backend = processes.inference()
    first = processes.gateway(backend)
    second = processes.gateway(backend, FINERY_GATEWAY_LISTEN=first.address())
    assert second.exit_status() == 1
    assert f"{first.address()} is in use by another process. Set FINERY_GATEWAY_LISTEN" in second.log()


def test_bad_setting(processes: Processes) -> None:
    gateway = processes.gateway(processes.inference(), FINERY_GATEWAY_LISTEN="0.0.0.0:0")
    assert gateway.exit_status() == 1
    assert "FINERY_GATEWAY_ALLOW_OPEN=1 if that is meant" in gateway.log()
    assert "Traceback" not in gateway.log()


def test_running_streams_finish_after_sigterm(processes: Processes) -> None:
    gateway = processes.gateway(processes.inference("--pieces", "20", "--delay", "0.1"))
    with httpx.stream("POST", f"{url(gateway)}/v1/chat/completions", json=BODY | {"stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.terminate()
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert sum("piece" in line for line in rest) == 20
    assert gateway.exit_status() == 0


def test_streams_that_outlast_the_drain_end_with_an_error(processes: Processes) -> None:
    gateway = processes.gateway(
        processes.inference("--pieces", "500", "--delay", "0.1"), FINERY_GATEWAY_DRAIN_SECONDS="1"
    )
    with httpx.stream("POST", f"{url(gateway)}/v1/chat/completions", json=BODY | {"stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        gateway.terminate()
        rest = [line for line in lines if line]
    assert json.loads(rest[-1][6:])["error"]["message"].startswith("The server is shutting down")
    assert gateway.exit_status() == 0


def test_whole_answers_that_outlast_the_drain_end_with_an_error(processes: Processes) -> None:
    backend = processes.inference("--pieces", "500", "--delay", "0.1")
    gateway = processes.gateway(backend, FINERY_GATEWAY_DRAIN_SECONDS="1")
    target = url(gateway)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(httpx.post, f"{target}/v1/chat/completions", json=BODY, timeout=30)
        time.sleep(0.5)
        gateway.terminate()
        answer = pending.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert gateway.exit_status() == 0


def test_killed_inference_process_is_a_clear_error_and_found_again(processes: Processes) -> None:
    backend = processes.inference("--pieces", "500", "--delay", "0.1")
    address = backend.address()
    gateway = processes.gateway(backend)
    with httpx.stream("POST", f"{url(gateway)}/v1/chat/completions", json=BODY | {"stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        backend.kill()
        killed = time.monotonic()
        last = [line for line in lines if line][-1]
    assert time.monotonic() - killed < 5
    assert json.loads(last[6:])["error"]["code"] == "service_unavailable"
    refused = httpx.post(f"{url(gateway)}/v1/chat/completions", json=BODY)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    processes.inference("--listen", address).address()
    wait_until(lambda: httpx.get(f"{url(gateway)}/ready").status_code == 200)
    assert httpx.post(f"{url(gateway)}/v1/chat/completions", json=BODY).status_code == 200


@pytest.mark.parametrize("how", ["kill", "freeze"])
def test_one_of_two_inference_processes_dies_under_load(processes: Processes, how: str) -> None:
    backends = [processes.inference("--pieces", "5", "--delay", "0.02") for _ in range(2)]
    gateway = processes.gateway(*backends, FINERY_GATEWAY_LOST_SECONDS="3")
    answers = asyncio.run(_load(url(gateway), getattr(backends[0], how)))
    # A whole answer moves to the other process: nobody sees an error.
    assert set(answers) == {200}
    assert len(answers) == 400


async def _load(url: str, strike: Callable[[], None]) -> list[int]:
    async with httpx.AsyncClient(base_url=url, timeout=60) as http:

        async def one() -> list[int]:
            return [(await http.post("/v1/chat/completions", json=BODY)).status_code for _ in range(25)]

        clients = [asyncio.create_task(one()) for _ in range(16)]
        await asyncio.sleep(0.5)
        strike()
        return [status for statuses in await asyncio.gather(*clients) for status in statuses]


def test_imports_are_light() -> None:
    code = "import sys, finery_gateway.bootstrap; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "transformers", "vllm", "sqlalchemy", "numpy") if f"'{name}'" in loaded]
