"""Toy jobs, and the toy service as a process of its own, for the tests of the job engine."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from finery.jobs.v1.jobs_pb2 import JobEvent, JobState
from finery_shared.home import announced
from finery_shared.jobs.rows import JobRecord
from finery_shared.jobs.states import FINAL
from finery_shared.jobs.store import JobStore
from tests.fakes.toy_service import ROOT, ToyService

PATIENCE = 60


def spec(work: Path, **plan: object) -> bytes:
    return json.dumps({"steps": 3, "destination": str(work / "result"), **plan}).encode()


async def create(toy: ToyService, work: Path, **plan: object) -> JobRecord:
    return await toy.engine.create(spec(work, **plan), str(work), "", b"")


async def watch(toy: ToyService, name: str, token: str = "") -> list[JobEvent]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in toy.engine.watch(name, token)]


def states(events: list[JobEvent]) -> list[JobState.ValueType]:
    return [event.status.state for event in events if event.HasField("status")]


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def wait_until(condition: Callable[[], object]) -> None:
    """As `until`, where no event loop runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@asynccontextmanager
async def serving(toy: ToyService) -> AsyncIterator[ToyService]:
    await toy.start()
    try:
        yield toy
    finally:
        await toy.stop()


def measured(store: JobStore, job: str) -> bool:
    """Whether a worker has reported what it measured."""
    return any(event.HasField("metrics") for event in store.events(job))


def ended(store: JobStore, job: str) -> bool:
    return store.get(job).state in FINAL


def worker_pid(record: JobRecord) -> int:
    assert record.handle is not None
    return int(record.handle.partition(":")[0])


class Process:
    """The toy service as a process of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> None:
        command = [sys.executable, "-m", "tests.fakes.toy_service", str(self.state)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env)
        deadline = time.monotonic() + PATIENCE
        while (found := announced(self.state / "ready.json")) is None or found.pid != self.process.pid:
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(PATIENCE)
