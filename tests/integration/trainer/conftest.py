import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.tiny_qwen import write_tiny_qwen
from tests.integration.trainer.harness import ROOT, Trainer, application


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The real SmolLM2-135M-Instruct, as a Hugging Face directory."""
    path = os.environ.get("FINERY_TEST_MODEL")
    if not path:
        pytest.fail("FINERY_TEST_MODEL is not set: run these tests by `make test-trainer`")
    return Path(path)


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Qwen's architecture, with Qwen's vocabulary."""
    return write_tiny_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")


@pytest.fixture
async def trainer(tmp_path: Path, smollm2: Path, tiny_qwen: Path) -> AsyncIterator[Trainer]:
    """The real service in this process, with real workers."""
    running = Trainer(application(tmp_path, [smollm2.parent, tiny_qwen.parent]))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def faulty_trainer(tmp_path: Path, tiny_qwen: Path) -> AsyncIterator[Trainer]:
    """The same, whose workers do what `faulty_worker` is told by FINERY_TEST_FAULT."""
    running = Trainer(application(tmp_path, [tiny_qwen.parent], "tests.integration.trainer.faulty_worker"))
    await running.start()
    yield running
    await running.stop()
