"""The job engine: takes jobs from the queue, runs attempts, publishes what they made, and recovers after a crash."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError
from prometheus_client import CollectorRegistry

from finery.jobs.v1.jobs_pb2 import JobEvent, JobHeartbeat, JobState
from finery.jobs.v1.worker_pb2 import ReportRequest, ReportResponse, WorkerOutcome
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.executor import Executor, Task, attempt_name
from finery_shared.jobs.failures import from_job_error, with_saved
from finery_shared.jobs.kind import JobKind
from finery_shared.jobs.metrics import JobCounters
from finery_shared.jobs.ownership import OwnerLock
from finery_shared.jobs.patience import AttemptWatch, EngineSettings
from finery_shared.jobs.publication import Published, discard_staging, has_state, publish_all, staging_directory
from finery_shared.jobs.rows import JobRecord
from finery_shared.jobs.states import ACTIVE, CANCELLED, CANCELLING, FAILED, FINAL, QUEUED, SUCCEEDED
from finery_shared.jobs.store import JobStore
from finery_shared.jobs.worker import OUTCOME_FILE
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
        self._kind = kind
        self._endpoint = endpoint
        self._settings = settings or EngineSettings()
        self._clock = clock
        self._accepting = dict(accepting or {})
        self._counters = counters or JobCounters(CollectorRegistry())
        self._lock = OwnerLock(state)
        self._attempts: dict[str, AttemptWatch] = {}
        self._troubles: dict[str, str] = {}
        self._resting: dict[str, float] = {}
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
                await self._attend(self._interrupt, record)
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
            await self._attend(self._tend, record)
        free = self._settings.max_running_jobs - len(active)
        if free > 0:
            queued = await asyncio.to_thread(self._store.in_states, [QUEUED])
            for record in [one for one in queued if not self._rests(one)][:free]:
                if self._stopping:
                    return
                await self._attend(self._begin, record)

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

    async def _begin(self, record: JobRecord) -> None:
        secret = secrets.token_urlsafe(32)
        record = await asyncio.to_thread(self._store.begin_attempt, record.name, secret)
        attempt, closing = record.status.attempt, record.closing
        staging = staging_directory(record.work_dir, record.name, attempt)
        spec = base64.b64encode(record.spec).decode("ascii")
        task = Task(record.name, attempt, secret, spec, str(staging), str(self._endpoint), closing)
        try:
            environment = {**record.environment, **self._kind.environment(record.spec)}
            ranks = 0 if closing else self._kind.ranks(record.spec)  # one process is enough to hand in
            handle = await asyncio.to_thread(self._executor.submit, task, environment, ranks)
        except OSError as error:
            await self._rest(record, error)
            return
        except Exception as error:
            await self._fail(record, self._explain("The worker can't be started", record, error))
            return
        self._resting.pop(record.name, None)
        await asyncio.to_thread(self._store.set_handle, record.name, handle)
        self._attempts[record.name] = AttemptWatch(self._clock)
        self._counters.attempt_began()
        self._log.info("attempt began", job=record.name, attempt=attempt, handle=handle)
        self._notify()

    async def _rest(self, record: JobRecord, error: OSError) -> None:
        """Put off an attempt whose worker the machine can't start now: that says nothing against the job."""
        await self._end(record)
        self._resting[record.name] = self._clock() + self._settings.start_again
        again = f"Trying again in {self._settings.start_again:.0f} seconds."
        text = f"Attempt {record.status.attempt}: the worker can't be started ({error}). {again}"
        self._log.warning("a worker can't be started", job=record.name, error=str(error))
        await asyncio.to_thread(self._store.requeue, record, text)
        self._notify()

    def _rests(self, record: JobRecord) -> bool:
        return record.name in self._resting and self._clock() < self._resting[record.name]

    async def _tend(self, record: JobRecord) -> None:
        if record.secret is None:  # cancelled between two attempts
            if not await self._has_state(record):
                await self._close(record)
            elif not self._rests(record):
                await self._begin(record)
            return
        watch = self._attempts.setdefault(record.name, AttemptWatch(self._clock))
        alive = record.handle is not None and self._executor.poll(record.handle)
        if record.outcome is None and not alive:
            record = await self._recover_outcome(record)
        if record.outcome is not None:
            if alive and self._overdue(watch, record):
                return
            await self._settle(record, record.outcome)
        elif not alive:
            await self._crashed(record)
        elif record.state == CANCELLING:
            self._press(watch, record)
        elif watch.silence(record) > self._settings.lease:
            self._log.warning("the worker is silent; ending it", job=record.name)
            self._signal(watch, record, kill=True)

    async def _recover_outcome(self, record: JobRecord) -> JobRecord:
        """A worker that ended while the service was down may have left its outcome in a file."""
        staging = staging_directory(record.work_dir, record.name, record.status.attempt)
        try:
            outcome = WorkerOutcome.FromString(await asyncio.to_thread((staging / OUTCOME_FILE).read_bytes))
        except (OSError, DecodeError):
            outcome = WorkerOutcome()
        if outcome.WhichOneof("end") is None:
            # The last report and the process's end can cross: the database may know more than the record read before.
            return await asyncio.to_thread(self._store.get, record.name)
        await asyncio.to_thread(self._store.set_outcome, record.name, outcome)
        return await asyncio.to_thread(self._store.get, record.name)

    def _overdue(self, watch: AttemptWatch, record: JobRecord) -> bool:
        """Wait a little for a worker that has handed in its outcome to end; True while there is patience left."""
        if watch.waited("exit") < self._settings.exit_grace:
            return True
        self._signal(watch, record, kill=True)
        return False

    def _press(self, watch: AttemptWatch, record: JobRecord) -> None:
        waited = watch.waited("cancel")
        if waited > 2 * self._settings.cancel_grace:
            self._signal(watch, record, kill=True)
        elif waited > self._settings.cancel_grace:
            self._signal(watch, record, kill=False)

    def _signal(self, watch: AttemptWatch, record: JobRecord, *, kill: bool) -> None:
        name = "kill" if kill else "term"
        if record.handle is not None and name not in watch.signalled:
            watch.signalled.add(name)
            self._executor.cancel(record.handle, kill=kill)

    async def _settle(self, record: JobRecord, outcome: WorkerOutcome) -> None:
        """Publish what an attempt made and move its job to its final state."""
        end = outcome.WhichOneof("end")
        if end == "failure":
            await self._fail(record, from_job_error(outcome.failure))
            return
        if not _decided(record):
            await self._crashed(record)
            return
        staged = outcome.success.artifacts if end == "success" else outcome.cancelled.artifacts
        figures = dict(outcome.success.figures)
        try:
            replace = self._kind.replaces_output(record.spec)
            published = await asyncio.to_thread(publish_all, staged, record.work_dir, replace=replace)
            output = self._kind.output(published, figures) if published or end == "success" else None
        except Exception as error:
            await self._fail(record, self._explain("The result can't be published", record, error))
            return
        if end == "success":
            await self._finish(record, SUCCEEDED, output=output, metrics=figures)
        else:
            await self._close(record, published, output)

    async def _fail(self, record: JobRecord, error: FineryError) -> None:
        """End a job that can't go on. Before, another attempt hands in what was saved, but for what a gate refused."""
        if record.failure is not None:
            await self._close(record)
            return
        if error.reason is Reason.GATE_FAILED or not await self._has_state(record):
            await self._finish(record, FAILED, error=error)
            return
        await self._end(record)
        self._attempts.pop(record.name, None)
        text = f"Attempt {record.status.attempt}: {error.message} Another one hands in what was saved."
        self._log.warning("a job fails; handing in what it saved", job=record.name, error=error.message)
        await asyncio.to_thread(self._store.requeue, record, text, crashes=0, failure=error)
        self._notify()

    async def _close(self, record: JobRecord, published: Sequence[Published] = (), output: bytes | None = None) -> None:
        """End a job of which nothing is left to hand in."""
        if record.failure is not None:
            await self._finish(record, FAILED, error=with_saved(record.failure, published))
        else:
            await self._finish(record, CANCELLED, output=output)

    def _explain(self, what: str, record: JobRecord, error: Exception) -> FineryError:
        """The error as the job's owner reads it; one that nobody foresaw is in the log with all its details."""
        if isinstance(error, FineryError):
            return error
        self._log.error(what, job=record.name, exc_info=error)
        return FineryError(
            Reason.INTERNAL, f"{what}: {type(error).__name__}: {error}. The service's log has the details."
        )

    async def _crashed(self, record: JobRecord) -> None:
        """The worker is gone without a word: try again, fail a job that keeps dying, end one that is closing.

        What a closing job has saved another attempt hands in, if that doesn't die too.
        """
        if record.closing and (record.crashes or not await self._has_state(record)):
            await self._close(record)
            return
        attempt = record.status.attempt
        how = await self._end(record)
        self._counters.attempt_lost()
        self._attempts.pop(record.name, None)
        crashes = await asyncio.to_thread(self._store.crashes_with, record)
        if record.closing or crashes < self._settings.max_attempts:
            then = "Another one hands in what it saved." if record.closing else "Trying again."
            text = f"Attempt {attempt}: the worker {how}. {then}"
            self._log.warning("attempt lost", job=record.name, attempt=attempt, how=how)
            await asyncio.to_thread(self._store.requeue, record, text, crashes=crashes)
            self._notify()
            return
        lines = "\n".join(self._executor.logs(attempt_name(record.name, attempt), 5))
        message = (
            f"The worker {how}, {self._settings.max_attempts} times without getting further. If it was killed, the "
            f"machine may be out of memory: lower --batch_size or --max_length. Its last words: {lines or 'none'}"
        )
        await self._fail(record, FineryError(Reason.WORKER_DIED, message))

    async def _interrupt(self, record: JobRecord) -> None:
        """End a job's worker, and keep the job for the next start, which settles it if its outcome is known."""
        await self._end(record)
        if record.outcome is None:
            record = await self._recover_outcome(record)
        if _decided(record):
            return
        if record.state == CANCELLING and not await self._has_state(record):
            await self._close(record)
        elif record.secret is not None:
            text = "The service was stopped; the job goes on when it is started again."
            await asyncio.to_thread(self._store.requeue, record, text)

    async def _has_state(self, record: JobRecord) -> bool:
        return await asyncio.to_thread(has_state, record.work_dir, record.name)

    async def _end(self, record: JobRecord) -> str:
        """Make sure that the worker of the current attempt is gone; how it ended."""
        name = attempt_name(record.name, record.status.attempt)
        return await asyncio.to_thread(self._executor.end, record.handle, name)

    async def _finish(
        self,
        record: JobRecord,
        state: JobState.ValueType,
        *,
        error: FineryError | None = None,
        output: bytes | None = None,
        metrics: dict[str, float] | None = None,
    ) -> None:
        await self._end(record)
        self._attempts.pop(record.name, None)
        self._troubles.pop(record.name, None)
        self._resting.pop(record.name, None)
        # First the staging directory, then the final state: who sees the end sees no leftovers. A crash in between is
        # harmless, since publishing again finds the artifacts in their place.
        await asyncio.to_thread(discard_staging, record.work_dir, record.name)
        ended = await asyncio.to_thread(
            self._store.finish, record.name, state, error=error, output=output, metrics=metrics
        )
        self._counters.job_ended(ended.status, state)
        self._log.info(
            "job ended", job=record.name, state=JobState.Name(state), error=error.message if error is not None else None
        )
        self._notify()


def _decided(record: JobRecord) -> bool:
    """Whether the attempt's outcome ends the job: a worker that stopped though nobody asked it to ends nothing."""
    end = record.outcome.WhichOneof("end") if record.outcome is not None else None
    return end in ("success", "failure") or (end == "cancelled" and record.closing)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, for some seconds at most; whether it came. (`wait_for` can swallow a cancellation in 3.11.)"""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
