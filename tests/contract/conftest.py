from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.toy_jobs import Process


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Process]:
    """The toy service, running."""
    process = Process(tmp_path / "state")
    process.start()
    yield process
    process.kill()
