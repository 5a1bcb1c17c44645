"""What a worker process uses: its task, and the line to the service that owns its job."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from finery.jobs.v1.jobs_pb2 import JobError, JobLogLine, JobMetrics
from finery.jobs.v1.worker_pb2 import StagedArtifact as StagedArtifactProto
from finery.jobs.v1.worker_pb2 import WorkerCancelled, WorkerOutcome, WorkerSuccess
from finery_shared.artifacts.publish import disk_full
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.executor import TASK_ENV, Task
from finery_shared.jobs.progress import ProgressMeter
from finery_shared.jobs.publication import STATE
from finery_shared.jobs.ranks import RankPlace, die_with_parent, own_place, rank_lost
from finery_shared.jobs.reporter import Reporter, Reports, Silence
from finery_shared.rpc.security import RpcSecurity

OUTCOME_FILE = "outcome.pb"

LOST_RANK_STATUS = 4
"""Exit status of a rank that can't go on because another one is gone."""

_FAILURE_PATIENCE = 5.0
"""Seconds in which a rank that failed has said why."""


class JobCancelled(Exception):
    """Raised inside a worker that was asked to stop."""


@dataclass(frozen=True)
class StagedArtifact:
    """A complete directory below the staging directory, and where it belongs.

    ``path == destination`` says that a published artifact from before is used as it is.
    """

    path: Path
    destination: Path
    role: str

    def to_proto(self) -> StagedArtifactProto:
        """The message for the service."""
        return StagedArtifactProto(role=self.role, path=str(self.path), destination=str(self.destination))


@dataclass(frozen=True)
class Outcome:
    """What a worker hands in: the artifacts to publish, in this order, and figures of the whole job."""

    artifacts: list[StagedArtifact] = field(default_factory=list)
    figures: Mapping[str, float] = field(default_factory=dict)


class WorkerContext:
    """A worker's view of its attempt."""

    def __init__(self, task: Task, reporter: Reports, place: RankPlace | None = None) -> None:
        self._reporter = reporter
        self._meter = ProgressMeter()
        self.place = place
        """Where this process stands among the ranks of the attempt; None when it works by itself."""
        self.job = task.job
        self.attempt = task.attempt
        self.spec = task.spec_bytes
        self.staging = Path(task.staging)
        self.state = self.staging.parent / STATE
        """What outlives this attempt: the next one finds it, and it is gone when the job ends. Made by who needs it."""
        self.kept: list[StagedArtifact] = []
        """What is to be published even if the job is cancelled from now on."""

    def plan(self, phases: Mapping[str, float]) -> None:
        """Say which phases come, in order, with their share of the time, so that the whole's fraction is right."""
        self._meter.plan(phases)

    def progress(self, step: int, total: int, phase: str) -> None:
        """Say how far the work is. Cheap: what is newer replaces what was not sent yet."""
        self._reporter.progress(self._meter.update(step, total, phase))

    def metrics(self, step: int, values: Mapping[str, float], phase: str = "train") -> None:
        """Hand in values that were measured at a step. They are kept, all of them."""
        self._reporter.add(metrics=JobMetrics(step=step, phase=phase, values=values))

    def log(self, text: str) -> None:
        """Tell people something, in one line."""
        self._reporter.add(log=JobLogLine(text=text))

    def flush(self) -> None:
        """Wait until what was measured is stored; a service that is away holds this up for a moment only.

        To be called before state is kept: an attempt that goes on from there does not measure it again.
        """
        self._reporter.flush()

    @property
    def cancel_requested(self) -> bool:
        """Whether the worker shall stop as soon as it can."""
        return self._reporter.cancel_requested.is_set()

    def raise_if_cancelled(self) -> None:
        """Raise JobCancelled if the worker shall stop."""
        if self.cancel_requested:
            raise JobCancelled


def _nothing(_context: WorkerContext) -> None:
    """What a job hands in whose state is of use to itself alone."""


def run_worker(main: Callable[[WorkerContext], Outcome], hand_in: Callable[[WorkerContext], None] = _nothing) -> int:
    """Run an attempt and hand in how it ended; the exit status of the process.

    Of several ranks, each runs ``main``; rank 0 alone reports, and the outcome is what it returns. ``hand_in`` takes
    the place of ``main`` when the job was cancelled before the attempt began: it puts what earlier ones saved into
    ``kept``.
    """
    task = Task.read(Path(os.environ[TASK_ENV]))
    if task.cancelled:
        main = partial(_hand_in, hand_in)
    place = own_place(os.environ)
    if place is not None:
        die_with_parent()
        if place.rank > 0:
            return _assist(main, WorkerContext(task, Silence(), place), place)
    reporter = Reporter(task, RpcSecurity.from_env(os.environ))
    signal.signal(signal.SIGTERM, lambda *_: reporter.cancel_requested.set())
    reporter.start()
    context = WorkerContext(task, reporter, place)
    if place is not None:
        threading.Thread(target=_listen, args=(place, reporter, context.staging), daemon=True).start()
    try:
        outcome = _run(partial(_in_clean_staging, main), context)
    except RankLost:
        time.sleep(_FAILURE_PATIENCE)  # `_listen` ends this process if another rank says why
        return LOST_RANK_STATUS  # no word of an outcome: the next attempt goes on
    if outcome.HasField("cancelled") and place is not None:
        outcome = place.failure_of_others() or outcome  # torchrun stops all ranks when one fails
    _keep(outcome, context.staging)
    return 0 if reporter.finish(outcome) else 1


def _listen(place: RankPlace, reporter: Reporter, staging: Path) -> None:
    """End rank 0 as soon as another rank has failed, and hand in why: it may be waiting for that rank for ever."""
    while (outcome := place.failure_of_others()) is None:
        time.sleep(0.2)
    _keep(outcome, staging)
    reporter.finish(outcome)
    os._exit(1)


def _assist(main: Callable[[WorkerContext], Outcome], context: WorkerContext, place: RankPlace) -> int:
    """Run a rank other than 0."""
    try:
        outcome = _run(main, context)
    except RankLost:
        return LOST_RANK_STATUS
    if outcome.HasField("failure"):
        place.leave_failure(outcome)
        return 1
    return 0


class RankLost(Exception):
    """Another rank of the attempt is gone, so that this one can't go on."""


def _run(main: Callable[[WorkerContext], Outcome], context: WorkerContext) -> WorkerOutcome:
    try:
        result = main(context)
    except JobCancelled:
        return WorkerOutcome(cancelled=WorkerCancelled(artifacts=[a.to_proto() for a in context.kept]))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        if context.place is not None and rank_lost(error):
            raise RankLost from error
        failure = explain(error, context.staging)
        return WorkerOutcome(
            failure=JobError(reason=failure.reason, message=failure.message, metadata=failure.metadata)
        )
    success = WorkerSuccess(artifacts=[a.to_proto() for a in result.artifacts], figures=result.figures)
    return WorkerOutcome(success=success)


def _hand_in(hand_in: Callable[[WorkerContext], None], context: WorkerContext) -> Outcome:
    """End as cancelled, whatever comes of it: nobody waits for this job's success any more."""
    try:
        hand_in(context)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        context.log(f"what was saved is not kept: {explain(error, context.staging).message}")
    raise JobCancelled


def _in_clean_staging(main: Callable[[WorkerContext], Outcome], context: WorkerContext) -> Outcome:
    _discard_attempts(context.staging.parent)
    context.staging.mkdir(parents=True)
    return main(context)


def _discard_attempts(directory: Path) -> None:
    """Remove what this attempt and those before it left half done, but not the job's state."""
    for path in directory.glob("[0-9]*"):
        shutil.rmtree(path, ignore_errors=True)


def explain(error: Exception, staging: Path) -> FineryError:
    """The error as the job's owner reads it."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, FineryError):
        return error
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return disk_full(staging)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        message = f"Out of memory. Lower --batch_size or --max_length, or use a larger device. ({text})"
        return FineryError(Reason.OUT_OF_MEMORY, message)
    return FineryError(Reason.INTERNAL, f"The worker failed unexpectedly: {text}. Its log has the details.")


def _keep(outcome: WorkerOutcome, staging: Path) -> None:
    """Leave the outcome in a file too: the service may be down, and this process gone when it comes back."""
    path = staging / OUTCOME_FILE
    try:
        with path.with_suffix(".tmp").open("wb") as file:
            file.write(outcome.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".tmp").replace(path)
    except OSError as error:
        print(f"the outcome could not be written: {error}", file=sys.stderr)  # noqa: T201 - the worker's log
