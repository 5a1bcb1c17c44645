from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.inference.harness import Harness, write_model


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_model(tmp_path / "toy-chat")


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A running process whose FINERY_HOME is ``tmp_path``."""
    running = Harness(tmp_path)
    await running.start()
    yield running
    await running.stop()
