import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.inference.service import Services


def pytest_configure(config: pytest.Config) -> None:
    """Let vLLM leave its sockets to the garbage collector, which may come to them in any later test."""
    config.addinivalue_line("filterwarnings", "ignore:Unclosed (context|socket) <zmq:ResourceWarning")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, as a Hugging Face directory."""
    path = os.environ.get("FINERY_TEST_MODEL")
    if not path:
        pytest.fail("FINERY_TEST_MODEL is not set: run these tests by `make test-inference`")
    return Path(path)


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Starts inference processes; what is left of them is killed at the end."""
    started = Services(tmp_path)
    yield started
    started.stop()


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """What vLLM leaves to the garbage collector warns where the warnings of its modules are expected, not later."""
    yield
    gc.collect()
