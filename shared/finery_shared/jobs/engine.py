"""The job engine: what can be asked of a service's jobs, and the loop that has their attempts begin and go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from finery.jobs.v1.jobs_pb2 import JobEvent, JobHeartbeat
from finery.jobs.v1.worker_pb2 import ReportRequest, ReportResponse
from finery_shared.jobs.attempts import Attempts
from finery_shared.jobs.executor import Executor
from finery_shared.jobs.kind import JobKind
from finery_shared.jobs.metrics import JobCounters
from finery_shared.jobs.ownership import OwnerLock
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.publication import discard_staging
from finery_shared.jobs.rows import JobRecord
from finery_shared.jobs.states import ACTIVE, CANCELLED, CANCELLING, FINAL, QUEUED
from finery_shared.jobs.store import JobStore
from finery_shared.log import logger


class JobEngine:
    """Owns the jobs of one store. All methods run on one event loop; the store works in threads.

    ``accepting`` are variables for the workers of the jobs that this engine creates; a later one, which may be told
    otherwise, gives them the same.
    """

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        kind: JobKind,
        state: Path,
        endpoint: Path,
        settings: EngineSettings | None = None,
        *,
        accepting: Mapping[str, str] | None = None,
        counters: JobCounters | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._executor = executor
        self._settings = settings or EngineSettings()
        self._accepting = dict(accepting or {})
        self._lock = OwnerLock(state)
        counters = counters or JobCounters(CollectorRegistry())
        self._attempts = Attempts(store, executor, kind, endpoint, self._settings, counters, clock, self._notify)
        self._troubles: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._work = asyncio.Event()
        self._stopping = False
        self._loop: asyncio.Task[None] | None = None
        self._log = logger("jobs")

    async def start(self) -> None:
        """Take ownership of the database and go on where the last owner stopped. Raises ALREADY_RUNNING."""
        self._lock.acquire()
        for record in await asyncio.to_thread(self._store.in_states, ACTIVE):
            alive = record.handle is not None and self._executor.poll(record.handle)
            self._log.info("found a job under way", job=record.name, attempt=record.status.attempt, alive=alive)
        self._loop = asyncio.create_task(self._run(), name="job-engine")

    async def stop(self) -> None:
        """Stop the workers, put their jobs back into the queue for the next start, and give ownership back.

        What is being done for a job is done to its end first: a publication can't be left half way.
        """
        self._stopping = True
        self._work.set()
        if self._loop is not None:
            await self._loop
            for record in await self._own():
                await self._attend(self._attempts.interrupt, record)
        self._notify()
        self._lock.release()

    async def create(self, spec: bytes, work_dir: str, request_id: str, request: bytes) -> JobRecord:
        """Queue a job; see JobStore.create."""
        record = await asyncio.to_thread(
            self._store.create, spec, work_dir, request_id, request=request, environment=self._accepting
        )
        self._notify()
        return record

    async def cancel(self, name: str) -> JobRecord:
        """Ask a job to stop; returns it as it is now."""
        record = await asyncio.to_thread(self._store.request_cancel, name)
        if record.state == CANCELLED:
            await asyncio.to_thread(discard_staging, record.work_dir, name)
        self._notify()
        return record

    async def delete(self, name: str) -> None:
        """Forget a job that has ended, and what its workers printed. Raises JOB_NOT_FOUND or JOB_NOT_FINISHED."""
        await asyncio.to_thread(self._store.delete, name)
        await asyncio.to_thread(self._executor.forget, name)

    async def report(self, request: ReportRequest) -> ReportResponse:
        """Take a worker's report."""
        arguments = (request.job, request.attempt, request.secret, list(request.updates))
        record, sequence = await asyncio.to_thread(self._store.report, *arguments)
        if request.updates:
            self._notify()
        return ReportResponse(cancel_requested=record.cancel_requested, acknowledged_sequence=sequence)

    async def watch(self, name: str, resume_token: str) -> AsyncIterator[JobEvent]:
        """Events after a token, then what happens, with heartbeats; ends after the final state."""
        token = resume_token
        while True:
            changed = self._changed
            events = await asyncio.to_thread(self._store.events, name, token)
            for event in events:
                token = event.resume_token
                yield event
            if events:
                if events[-1].HasField("status") and events[-1].status.state in FINAL:
                    return
                continue
            if (await asyncio.to_thread(self._store.get, name)).state in FINAL:
                if not await asyncio.to_thread(self._store.events, name, token):
                    return
                continue
            if not await _wait(changed, self._settings.heartbeat):
                beat = JobEvent(resume_token=token, heartbeat=JobHeartbeat())
                beat.time.GetCurrentTime()
                yield beat

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self._work.set()

    async def _run(self) -> None:
        while not self._stopping:
            self._work.clear()
            try:
                await self._step()
            except Exception:
                # A full disk, say, must not end the engine that all jobs depend on.
                self._log.exception("the job engine stumbled; going on")
            await _wait(self._work, self._settings.poll_interval)

    async def _step(self) -> None:
        active = await self._own()
        for record in active:
            if self._stopping:
                return
            await self._attend(self._attempts.tend, record)
        free = self._settings.max_running_jobs - len(active)
        if free > 0:
            queued = await asyncio.to_thread(self._store.in_states, [QUEUED])
            for record in [one for one in queued if not self._attempts.rests(one)][:free]:
                if self._stopping:
                    return
                await self._attend(self._attempts.begin, record)

    async def _own(self) -> list[JobRecord]:
        """The jobs under way that are this engine's business."""
        own = ACTIVE if self._settings.max_running_jobs else frozenset({CANCELLING})
        return await asyncio.to_thread(self._store.in_states, own)

    async def _attend(self, act: Callable[[JobRecord], Awaitable[None]], record: JobRecord) -> None:
        """Do something for one job. Its trouble is not that of the others, whose turn comes next."""
        try:
            await act(record)
        except Exception as error:
            if self._troubles.get(record.name) != str(error):  # it is tried again several times a second
                self._troubles[record.name] = str(error)
                self._log.exception("a job is in trouble; going on with the others", job=record.name)
        else:
            self._troubles.pop(record.name, None)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, for some seconds at most; whether it came. (`wait_for` can swallow a cancellation in 3.11.)"""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
