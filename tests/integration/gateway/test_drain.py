"""SIGTERM: not ready at once, new requests for a moment, running streams to their end."""

import httpx
import pytest

from tests.integration.gateway.processes import Processes, wait_until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_gateway_that_drains_says_so_and_goes_on_for_a_moment(processes: Processes, workers: str) -> None:
    backend = processes.inference("--pieces", "50", "--delay", "0.1")
    settings = {"FINERY_GATEWAY_DRAIN_DELAY_SECONDS": "3", "FINERY_GATEWAY_WORKERS": workers}
    gateway = processes.gateway(backend, **settings)
    url = f"http://{gateway.address()}"
    assert httpx.get(f"{url}/ready").status_code == 200
    with httpx.stream("POST", f"{url}{CHAT}", json=BODY | {"stream": True}, timeout=30) as running:
        lines = running.iter_lines()
        next(lines)
        gateway.terminate()
        wait_until(lambda: httpx.get(f"{url}/ready").status_code == 503, 3)
        refused = httpx.get(f"{url}/ready")
        assert refused.json() == {"status": "not ready", "reason": "The gateway is shutting down."}
        assert httpx.get(f"{url}/health").status_code == 200
        # A load balancer that has not looked yet still sends new ones.
        with httpx.stream("POST", f"{url}{CHAT}", json=BODY | {"stream": True}, timeout=30) as late:
            answer = late.read().decode()
        assert late.status_code == 200
        assert answer.endswith("data: [DONE]\n\n")
        assert answer.count("piece") == 50
        rest = list(lines)
    assert "data: [DONE]" in rest
    assert gateway.exit_status() == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_without_a_delay_nothing_new_is_taken(processes: Processes) -> None:
    gateway = processes.gateway(processes.inference("--pieces", "30", "--delay", "0.1"))
    url = f"http://{gateway.address()}"

    def closed() -> bool:
        try:
            httpx.get(f"{url}/ready")
        except httpx.TransportError:
            return True
        return False

    with httpx.stream("POST", f"{url}{CHAT}", json=BODY | {"stream": True}, timeout=30) as running:
        lines = running.iter_lines()
        next(lines)
        gateway.terminate()
        wait_until(closed, 2)
        assert "data: [DONE]" in list(lines)
    assert gateway.exit_status() == 0
