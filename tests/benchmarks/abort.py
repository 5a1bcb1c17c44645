"""How long an engine goes on working for a client that has left.

    python tests/benchmarks/abort.py                     # the fake engine
    python tests/benchmarks/abort.py --model DIR         # vLLM

Requests go through a gateway; each client closes its connection before or after the first token, streaming or not. The
time is from there until the engine itself says that nothing runs, asked every millisecond.
"""

# ruff: noqa: T201 - it prints

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from servers import ROOT, deploy, servers
from stream_load import percentile

from finery.inference.v1.deployments_pb2 import GetDeploymentStatsRequest, ListDeploymentsRequest
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from finery_shared.rpc import open_sync_channel
from gateway import model_directory

NAME = "m"
FIRST_TOKEN_SECONDS = 0.2
"""Of the fake engine; those who leave before the first token do so in that time."""


def main() -> None:
    """Measure, and print one line for each kind of leaving."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--inference-python", default=str(ROOT / ".venvs/inference/bin/python"))
    wish = parser.parse_args()
    with servers() as started:
        fake = {
            "FINERY_INFERENCE_ENGINE": "fake",
            "FINERY_INFERENCE_FAKE_FIRST_TOKEN_SECONDS": str(FIRST_TOKEN_SECONDS),
            "FINERY_INFERENCE_FAKE_TOKENS_PER_SECOND": "100",
        }
        roots = {"FINERY_INFERENCE_ALLOWED_ROOTS": str(wish.model.parent)} if wish.model else fake
        inference = started.inference(wish.inference_python, **roots)
        model = wish.model or model_directory(started.directory / "home" / "model")
        deploy(inference, model, NAME, max_model_len=2048)
        gateway = started.gateway(inference)
        with open_sync_channel(inference.address()) as channel:
            stub = DeploymentServiceStub(channel)
            name = stub.ListDeployments(ListDeploymentsRequest()).deployments[0].name

            def running() -> int:
                stats = stub.GetDeploymentStats(GetDeploymentStatsRequest(name=name))
                return int(stats.running_requests + stats.waiting_requests)

            for stream in (True, False):
                for first in (False, True) if stream else (False,):
                    seconds = [leave(gateway.address(), running, stream, first) for _ in range(wish.times)]
                    what = f"stream={stream}, {'after' if first else 'before'} the first token"
                    figures = [f"p{at} {percentile(seconds, at / 100) * 1000:.1f} ms" for at in (50, 99)]
                    print(f"{what}: {', '.join(figures)}, of {wish.times}", flush=True)


def leave(address: str, running: Callable[[], int], stream: bool, first: bool) -> float:
    """Ask for much, leave, and wait until the engine is idle; the seconds that took."""
    target = urlsplit(f"http://{address}")
    message = {"role": "user", "content": "Write a very long story."}
    body = json.dumps(
        {"model": NAME, "stream": stream, "max_tokens": 1500, "ignore_eos": True, "messages": [message]}
    ).encode()
    with socket.create_connection((target.hostname, target.port)) as connection:
        lines = (b"POST /v1/chat/completions HTTP/1.1", b"Host: x", b"Content-Type: application/json")
        connection.sendall(b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body]))
        if first:
            connection.recv(65536)
        while not running():
            time.sleep(0.001)
    left = time.perf_counter()
    while running():
        time.sleep(0.001)
    return time.perf_counter() - left


if __name__ == "__main__":
    main()
