"""The worker's line to its service: batched, acknowledged, patient with a service that restarts."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Protocol

import grpc

from finery.jobs.v1.jobs_pb2 import JobLogLine, JobMetrics, JobProgress
from finery.jobs.v1.worker_pb2 import ReportRequest, ReportResponse, WorkerOutcome, WorkerUpdate
from finery.jobs.v1.worker_pb2_grpc import WorkerServiceStub
from finery_shared.errors import Reason
from finery_shared.home import announced
from finery_shared.jobs.executor import Task
from finery_shared.rpc.channel import OPEN, open_sync_channel
from finery_shared.rpc.security import RpcSecurity
from finery_shared.rpc.status import from_rpc_error

FENCED_STATUS = 3
"""Exit status of a worker whose attempt was taken over."""

_RETRY = 0.2
"""Seconds between attempts to hand in the end."""


class Reports(Protocol):
    """What takes a worker's news, and says whether it shall stop."""

    @property
    def cancel_requested(self) -> threading.Event:
        """Set when the worker shall stop as soon as it can."""

    def progress(self, progress: JobProgress) -> None:
        """Take how far the work is."""

    def add(
        self,
        *,
        metrics: JobMetrics | None = None,
        log: JobLogLine | None = None,
        outcome: WorkerOutcome | None = None,
    ) -> None:
        """Take an update."""

    def flush(self) -> None:
        """Return once what was taken is stored, or the service seems to be away."""


class Silence:
    """Takes everything and tells nobody: rank 0 speaks for all ranks."""

    def __init__(self) -> None:
        self.cancel_requested = threading.Event()

    def progress(self, progress: JobProgress) -> None:
        """Drop it."""

    def add(
        self,
        *,
        metrics: JobMetrics | None = None,
        log: JobLogLine | None = None,
        outcome: WorkerOutcome | None = None,
    ) -> None:
        """Drop it."""

    def flush(self) -> None:
        """There is nothing to store."""


class Reporter:
    """Sends updates from a thread of its own, so that the work never waits for the network.

    ``interval`` is the time between reports in seconds, with or without news. After ``patience`` seconds without a
    service the worker gives up: its job will be tried again by whoever owns it then. ``pause`` is how long it waits for
    a service that is away when all shall be stored.
    """

    def __init__(
        self,
        task: Task,
        security: RpcSecurity = OPEN,
        *,
        interval: float = 1.0,
        patience: float = 600.0,
        pause: float = 5.0,
    ) -> None:
        self._task = task
        self._security = security
        self._interval = interval
        self._patience = patience
        self._pause = pause
        self._lock = threading.Lock()
        self._stored = threading.Condition(self._lock)
        self._waiting: list[WorkerUpdate] = []
        self._progress: JobProgress | None = None
        self._sequence = 0
        self._wake = threading.Event()
        self._closing = False
        self._delivered = False
        self._channel: grpc.Channel | None = None
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self.cancel_requested = threading.Event()

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def progress(self, progress: JobProgress) -> None:
        """Replace the progress that was not sent yet."""
        with self._lock:
            self._progress = progress

    def add(
        self,
        *,
        metrics: JobMetrics | None = None,
        log: JobLogLine | None = None,
        outcome: WorkerOutcome | None = None,
    ) -> None:
        """Queue an update that must not be lost."""
        with self._lock:
            self._queue(WorkerUpdate(metrics=metrics, log=log, outcome=outcome))

    def flush(self) -> None:
        """Report at once, and wait until it is stored: what a process that is killed has not reported is lost."""
        self._wake.set()
        with self._stored:
            self._stored.wait_for(lambda: not self._waiting, self._pause)

    def finish(self, outcome: WorkerOutcome) -> bool:
        """Hand in the end and wait until it is stored; False if no service took it within the patience."""
        self.add(outcome=outcome)
        self._closing = True
        self._wake.set()
        self._thread.join()
        return self._delivered

    def _queue(self, update: WorkerUpdate) -> None:
        if self._progress is not None:
            progress, self._progress = self._progress, None
            self._queue(WorkerUpdate(progress=progress))
        self._sequence += 1
        update.sequence = self._sequence
        update.time.GetCurrentTime()
        self._waiting.append(update)

    def _run(self) -> None:
        last_contact = time.monotonic()
        while True:
            if self._report():
                last_contact = time.monotonic()
                if self._closing and not self._waiting:
                    self._delivered = True
                    return
            elif time.monotonic() - last_contact > self._patience:
                print("no service took this worker's reports; giving up", file=sys.stderr)  # noqa: T201 - its log
                if self._closing:
                    return
                os._exit(1)
            if self._closing:
                time.sleep(_RETRY)  # nothing new will come: all that is left is to be heard
            else:
                self._wake.wait(self._interval)
                self._wake.clear()

    def _report(self) -> bool:
        with self._lock:
            if self._progress is not None:
                progress, self._progress = self._progress, None
                self._queue(WorkerUpdate(progress=progress))
            batch = self._waiting[:500]
        request = ReportRequest(job=self._task.job, attempt=self._task.attempt, secret=self._task.secret, updates=batch)
        try:
            response = self._send(request)
        except grpc.RpcError as error:
            self._disconnect()
            if from_rpc_error(error, "the service").reason is Reason.ATTEMPT_FENCED:
                print("another attempt has taken over; ending", file=sys.stderr)  # noqa: T201 - the worker's log
                os._exit(FENCED_STATUS)
            return False
        if response is None:
            return False
        with self._lock:
            self._waiting = [u for u in self._waiting if u.sequence > response.acknowledged_sequence]
            self._stored.notify_all()
        if response.cancel_requested:
            self.cancel_requested.set()
        return True

    def _send(self, request: ReportRequest) -> ReportResponse | None:
        if self._channel is None:
            service = announced(Path(self._task.endpoint))
            if service is None:
                return None
            self._channel = open_sync_channel(service.address, self._security)
        response: ReportResponse = WorkerServiceStub(self._channel).Report(request, timeout=10)
        return response

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
