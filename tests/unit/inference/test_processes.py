"""The operating system's view of an engine."""

import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from finery_inference.engines.processes import EngineProcesses

CORE = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-c", "while True: pass"])
print(worker.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def core() -> Iterator[subprocess.Popen[str]]:
    """A process that waits, with a worker that computes."""
    with subprocess.Popen(
        [sys.executable, "-c", CORE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            for worker in psutil.Process(process.pid).children() if process.poll() is None else ():
                worker.kill()
            process.kill()


def worker_of(core: subprocess.Popen[str]) -> psutil.Process:
    assert core.stdout is not None
    return psutil.Process(int(core.stdout.readline()))


def test_the_time_of_workers_counts_and_no_other_process_is_read(
    core: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = worker_of(core)
    processes = EngineProcesses.of([core.pid], computing=True)
    assert processes.workers == (worker,)
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: pytest.fail("reads every process"))
    before, deadline = processes.cpu_seconds(), time.monotonic() + 30
    while processes.cpu_seconds() < before + 0.1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    monkeypatch.undo()


def test_all_are_killed_even_a_worker_that_came_later(core: subprocess.Popen[str]) -> None:
    processes = EngineProcesses((psutil.Process(core.pid),), (), computing=True)
    worker = worker_of(core)
    processes.kill()
    assert worker.wait(10) is None  # it was not ours to reap
    assert core.wait(10) < 0
