import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.quantizer.harness import Quantizer


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, as a Hugging Face directory."""
    path = os.environ.get("FINERY_TEST_MODEL")
    if not path:
        pytest.fail("FINERY_TEST_MODEL is not set: run these tests by `make test-quantizer`")
    return Path(path)


@pytest.fixture
async def quantizer(tmp_path: Path, smollm2: Path) -> AsyncIterator[Quantizer]:
    """The real service in this process, with real workers."""
    running = Quantizer(tmp_path, [smollm2.parent])
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def faulty_quantizer(tmp_path: Path, smollm2: Path) -> AsyncIterator[Quantizer]:
    """The same, whose workers do what `faulty_worker` is told by FINERY_TEST_FAULT."""
    running = Quantizer(tmp_path, [smollm2.parent], worker="tests.integration.quantizer.faulty_worker")
    await running.start()
    yield running
    await running.stop()
