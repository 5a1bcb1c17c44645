from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gateway.processes import Processes


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.stop()
