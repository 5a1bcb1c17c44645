"""What a client sees of a job over gRPC, through the deaths of the job's worker and of its service."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery.trainer.v1.trainer_pb2 import TrainingJob
from finery_client.calls import Calls
from finery_client.endpoints import Endpoint
from finery_client.follow import Follower, Patience
from finery_client.jobs import TrainingJobs
from finery_shared.errors import FineryError, Reason
from finery_shared.home import announced
from finery_shared.jobs.schema import open_sqlite
from finery_shared.jobs.states import FINAL, RUNNING, SUCCEEDED
from finery_shared.jobs.store import JobStore
from tests.fakes.toy_jobs import PATIENCE, Process, worker_pid

STEPS = 150
SERVICE_KILLS, WORKER_KILLS = (1, 3, 5), (2, 4)


class Seen:
    """A listener that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[JobEvent] = []

    def event(self, event: JobEvent) -> None:
        self.events.append(event)

    def lost(self, error: FineryError) -> None:
        """What was missed comes later."""

    def regained(self) -> None:
        """The events tell it."""


class MovingJobs:
    """The jobs of a service that has another address after each start."""

    def __init__(self, announcement: Path) -> None:
        self._announcement = announcement
        self.tokens: list[str] = []

    def watch(self, name: str, resume_token: str, timeout: float) -> Iterator[JobEvent]:
        with self._calls() as calls:
            self.tokens.append(resume_token)
            yield from TrainingJobs(calls).watch(name, resume_token, timeout)

    def get(self, name: str) -> TrainingJob:
        with self._calls() as calls:
            return TrainingJobs(calls).get(name)

    def _calls(self) -> Calls:
        found = announced(self._announcement)
        if found is None:
            raise FineryError(Reason.SERVICE_UNAVAILABLE, "The service is down.")
        return Calls(Endpoint("trainer", found.address))


def test_a_watch_misses_nothing_while_worker_and_service_are_killed_at_random(service: Process, tmp_path: Path) -> None:
    """Each event that the database ends up with was seen exactly once, in order, as it is there."""
    store = JobStore(open_sqlite(service.state / "jobs.db"), "toys")
    plan = {"steps": STEPS, "pause": 0.05, "destination": str(tmp_path / "result")}
    job = store.create(json.dumps(plan).encode(), str(tmp_path)).name
    seen, jobs = Seen(), MovingJobs(service.state / "ready.json")
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(Follower(seen, lambda: None, Patience(give_up=PATIENCE)).follow, jobs, job)
        reattached = kill_at_random(service, store, job)
        assert following.result(PATIENCE).status.state == SUCCEEDED
    assert seen.events == store.events(job)
    assert [int(event.resume_token) for event in seen.events] == list(range(1, len(seen.events) + 1))
    assert len(set(jobs.tokens)) > len(SERVICE_KILLS), "a watch was taken up after each death of the service"
    assert reattached >= 1
    attempt = store.get(job).status.attempt
    last = [event.metrics.step for event in seen.events if event.metrics.attempt == attempt]
    assert last == list(range(1, STEPS + 1))
    assert (tmp_path / "result" / "data.txt").read_text() == "x" * STEPS
    assert service.end() == 0


def kill_at_random(service: Process, store: JobStore, job: str) -> int:
    """Kill both in turns until the job has ended; how often a service took up the living worker of its predecessor."""
    rng = random.Random(7)
    reattached, kills = 0, 0
    deadline = time.monotonic() + 2 * PATIENCE
    while store.get(job).state not in FINAL:
        assert time.monotonic() < deadline
        time.sleep(rng.uniform(0.2, 1.2))
        record = store.get(job)
        if kills == len(SERVICE_KILLS + WORKER_KILLS) or record.state != RUNNING or record.handle is None:
            continue
        kills += 1
        if kills in WORKER_KILLS:
            os.kill(worker_pid(record), signal.SIGKILL)
            continue
        service.kill()
        service.start()
        time.sleep(1.5)
        reattached += store.get(job).status.attempt == record.status.attempt
    assert kills == len(SERVICE_KILLS + WORKER_KILLS)
    return reattached
