"""Following a job that waits for others."""

import threading

import pytest

from finery.jobs.v1.jobs_pb2 import JobStatus
from finery_shared.jobs.states import QUEUED, RUNNING, SUCCEEDED
from tests.fakes.scripted_trainer import ScriptedTrainer, serve
from tests.unit.client.conftest import Finery, finish, read_until

SFT = ("sft", "--model_type", "smollm2-135m-instruct", "--dataset", "self-cognition")


class BusyTrainer(ScriptedTrainer):
    """Has one job done, one under way and one in the queue; new ones wait for their ``turn``."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = threading.Event()
        for name, state in (("done", SUCCEEDED), ("running", RUNNING), ("next", QUEUED)):
            self.queue(f"trainingJobs/{name}")
            self.jobs[f"trainingJobs/{name}"].status.state = state

    def _run(self, name: str) -> None:
        self.jobs[name].status.state = QUEUED
        for _ in range(2):
            self._emit(name, status=JobStatus(state=QUEUED))
        self.turn.wait(30)
        self.jobs[name].status.state = RUNNING
        super()._run(name)


@pytest.fixture
def trainer() -> BusyTrainer:
    return BusyTrainer()


def test_each_job_ahead_is_named_once_with_the_way_to_stop_it(finery: Finery, trainer: BusyTrainer):
    server, address = serve(trainer)
    with finery.start(*SFT, FINERY_TRAINER=address) as process:
        said = read_until(process, "waits for trainingJobs/next")
        trainer.turn.set()
        _, rest = finish(process)
    server.stop(0)
    assert process.returncode == 0
    lines = [line for line in (said + rest).splitlines() if "waits for" in line]
    assert lines == [
        "trainingJobs/4 waits for trainingJobs/running, which is running. "
        "To stop that one: finery jobs cancel trainingJobs/running",
        "trainingJobs/4 waits for trainingJobs/next, which is queued. "
        "To stop that one: finery jobs cancel trainingJobs/next",
    ]


def test_a_job_that_begins_at_once_waits_for_none(finery: Finery, trainer: BusyTrainer):
    trainer.turn.set()
    server, address = serve(trainer)
    done = finery(*SFT, FINERY_TRAINER=address)
    server.stop(0)
    assert done.returncode == 0
    assert "trainingJobs/4: queued" in done.stderr
    assert "waits for" not in done.stderr
