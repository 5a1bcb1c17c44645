"""The attempts at a job: a worker that begins, is watched, ends or dies, and what becomes of the job by that."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from finery.jobs.v1.jobs_pb2 import JobState
from finery.jobs.v1.worker_pb2 import WorkerOutcome
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.executor import Executor, Task, attempt_name
from finery_shared.jobs.failures import from_job_error, with_saved
from finery_shared.jobs.kind import JobKind
from finery_shared.jobs.metrics import JobCounters
from finery_shared.jobs.patience import AttemptWatch, EngineSettings
from finery_shared.jobs.publication import Published, discard_staging, has_state, publish_all, staging_directory
from finery_shared.jobs.rows import JobRecord
from finery_shared.jobs.states import CANCELLED, CANCELLING, FAILED, SUCCEEDED
from finery_shared.jobs.store import JobStore
from finery_shared.jobs.worker import OUTCOME_FILE
from finery_shared.log import logger


class Attempts:
    """Moves jobs from the queue to their final state. ``changed`` is called after each change that others wait for.

    It never has two things to do for one job at a time: the engine calls it in turn.
    """

    def __init__(
        self,
        store: JobStore,
        executor: Executor,
        kind: JobKind,
        endpoint: Path,
        settings: EngineSettings,
        counters: JobCounters,
        clock: Callable[[], float],
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._executor = executor
        self._kind = kind
        self._endpoint = endpoint
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._changed = changed
        self._watches: dict[str, AttemptWatch] = {}
        self._resting: dict[str, float] = {}
        self._log = logger("jobs")

    async def begin(self, record: JobRecord) -> None:
        """Start the next attempt of a job."""
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
        self._watches[record.name] = AttemptWatch(self._clock)
        self._counters.attempt_began()
        self._log.info("attempt began", job=record.name, attempt=attempt, handle=handle)
        self._changed()

    async def _rest(self, record: JobRecord, error: OSError) -> None:
        """Put off an attempt whose worker the machine can't start now: that says nothing against the job."""
        await self._end(record)
        self._resting[record.name] = self._clock() + self._settings.start_again
        again = f"Trying again in {self._settings.start_again:.0f} seconds."
        text = f"Attempt {record.status.attempt}: the worker can't be started ({error}). {again}"
        self._log.warning("a worker can't be started", job=record.name, error=str(error))
        await asyncio.to_thread(self._store.requeue, record, text)
        self._changed()

    def rests(self, record: JobRecord) -> bool:
        """Whether the machine could not start its worker a short while ago."""
        return record.name in self._resting and self._clock() < self._resting[record.name]

    async def tend(self, record: JobRecord) -> None:
        """See how the attempt of a job under way does, and do what is next."""
        if record.secret is None:  # cancelled between two attempts
            if not await self._has_state(record):
                await self._close(record)
            elif not self.rests(record):
                await self.begin(record)
            return
        watch = self._watches.setdefault(record.name, AttemptWatch(self._clock))
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
        self._watches.pop(record.name, None)
        text = f"Attempt {record.status.attempt}: {error.message} Another one hands in what was saved."
        self._log.warning("a job fails; handing in what it saved", job=record.name, error=error.message)
        await asyncio.to_thread(self._store.requeue, record, text, crashes=0, failure=error)
        self._changed()

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
        self._watches.pop(record.name, None)
        crashes = await asyncio.to_thread(self._store.crashes_with, record)
        if record.closing or crashes < self._settings.max_attempts:
            then = "Another one hands in what it saved." if record.closing else "Trying again."
            text = f"Attempt {attempt}: the worker {how}. {then}"
            self._log.warning("attempt lost", job=record.name, attempt=attempt, how=how)
            await asyncio.to_thread(self._store.requeue, record, text, crashes=crashes)
            self._changed()
            return
        lines = "\n".join(self._executor.logs(attempt_name(record.name, attempt), 5))
        message = (
            f"The worker {how}, {self._settings.max_attempts} times without getting further. If it was killed, the "
            f"machine may be out of memory: lower --batch_size or --max_length. Its last words: {lines or 'none'}"
        )
        await self._fail(record, FineryError(Reason.WORKER_DIED, message))

    async def interrupt(self, record: JobRecord) -> None:
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
        self._watches.pop(record.name, None)
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
        self._changed()


def _decided(record: JobRecord) -> bool:
    """Whether the attempt's outcome ends the job: a worker that stopped though nobody asked it to ends nothing."""
    end = record.outcome.WhichOneof("end") if record.outcome is not None else None
    return end in ("success", "failure") or (end == "cancelled" and record.closing)
