"""A gateway for clients from elsewhere: one with the fake engine, or that of FINERY_CLIENTS_URL with its own model.

These tests run in an environment of their own (`make test-clients`), which holds nothing of Finery.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEY = "key-of-the-clients"

# Else litellm fetches its table of prices when it is imported.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"


@dataclass(frozen=True)
class Server:
    """What a client is told."""

    url: str
    model: str
    key: str
    guarded: bool
    """Whether another key is refused."""
    calls_tools: bool
    """Whether the model knows tools."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if url := os.environ.get("FINERY_CLIENTS_URL"):
        yield Server(url, os.environ["FINERY_CLIENTS_MODEL"], KEY, guarded=False, calls_tools=False)
        return
    command = [ROOT / ".venvs/core/bin/python", "-m", "tests.integration.serving.serving"]
    directory = tmp_path_factory.mktemp("serving")
    process = subprocess.Popen(
        [*command, directory],
        cwd=ROOT,
        env={**os.environ, "FINERY_GATEWAY_API_KEYS": KEY},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    url = process.stdout.readline().strip()
    assert url, "the gateway did not start"
    yield Server(f"{url}/v1", "toy", KEY, guarded=True, calls_tools=True)
    process.stdin.close()
    assert process.wait(30) == 0
    process.stdout.close()
