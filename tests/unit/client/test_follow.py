import time

import grpc
import pytest

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery.trainer.v1.trainer_pb2 import TrainingJob, TrainingSpec
from finery_client.calls import Calls
from finery_client.endpoints import Endpoint
from finery_client.follow import Follower, Patience
from finery_client.jobs import TrainingJobs
from finery_client.results import TrainingResult
from finery_client.run import cancel_and_wait, create, run
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.states import CANCELLED
from tests.fakes.scripted_trainer import ScriptedTrainer, serve

EVENTS = 13
"""Of a script: running, five times progress and metrics, a log line, succeeded."""

QUICK = Patience(watch=5.0, give_up=1.5, first_pause=0.02, last_pause=0.1)


class Recorder:
    def __init__(self) -> None:
        self.events: list[JobEvent] = []
        self.lost_errors: list[FineryError] = []
        self.times_regained = 0

    def event(self, event: JobEvent) -> None:
        self.events.append(event)

    def lost(self, error: FineryError) -> None:
        self.lost_errors.append(error)

    def regained(self) -> None:
        self.times_regained += 1

    @property
    def tokens(self) -> list[str]:
        return [event.resume_token for event in self.events]


def follow(address: str, recorder: Recorder, patience: Patience = QUICK) -> TrainingJob:
    with Calls(Endpoint("trainer", address), retry_seconds=0.2) as calls:
        jobs = TrainingJobs(calls)
        name = create(jobs, TrainingSpec()).name
        return Follower(recorder, lambda: None, patience).follow(jobs, name)


ALL = [str(n) for n in range(1, EVENTS + 1)]


def test_every_event_comes_once_and_in_order():
    recorder = Recorder()
    server, address = serve(ScriptedTrainer())
    job = follow(address, recorder)
    server.stop(0)
    assert recorder.tokens == ALL
    result = TrainingResult.of(job)
    assert result.best_model_checkpoint == result["best_model_checkpoint"] == "/out/best one/checkpoint-4"
    assert result.last_model_checkpoint == "/out/checkpoint-5"
    assert result.figures == {"train_loss": 0.4}


def test_a_broken_stream_goes_on_where_it_broke():
    trainer = ScriptedTrainer(drops=[0, 3, 1, 4])
    server, address = serve(trainer)
    recorder = Recorder()
    follow(address, recorder)
    server.stop(0)
    assert recorder.tokens == ALL
    assert trainer.tokens_seen == ["", "", "3", "4", "8"]


def test_an_expired_token_starts_over():
    trainer = ScriptedTrainer(drops=[3])
    trainer.expired = {"3"}
    server, address = serve(trainer)
    recorder = Recorder()
    follow(address, recorder)
    server.stop(0)
    assert trainer.tokens_seen == ["", "3", ""]
    assert recorder.tokens == [*ALL[:3], *ALL]


def test_the_service_may_be_away_for_a_while():
    trainer = ScriptedTrainer(step_seconds=0.3)
    server, address = serve(trainer)
    servers: list[grpc.Server] = []

    class Restarting(Recorder):
        def event(self, event: JobEvent) -> None:
            super().event(event)
            if len(self.events) == 3:
                server.stop(0).wait()

        def lost(self, error: FineryError) -> None:
            super().lost(error)
            servers.append(serve(trainer, address)[0])

    recorder = Restarting()
    follow(address, recorder, Patience(watch=5.0, give_up=20.0, first_pause=0.05, last_pause=0.2))
    servers[0].stop(0)
    assert recorder.tokens == ALL
    assert [error.reason for error in recorder.lost_errors] == [Reason.SERVICE_UNAVAILABLE]
    assert recorder.times_regained == 1


def test_a_service_that_stays_away_is_an_error():
    trainer = ScriptedTrainer(step_seconds=60)
    server, address = serve(trainer)
    recorder = Recorder()

    with Calls(Endpoint("trainer", address), retry_seconds=0.2) as calls:
        jobs = TrainingJobs(calls)
        name = create(jobs, TrainingSpec()).name
        server.stop(0).wait()
        begun = time.monotonic()
        with pytest.raises(FineryError, match="can't be reached") as lost:
            Follower(recorder, lambda: None, QUICK).follow(jobs, name)
    assert lost.value.reason is Reason.SERVICE_UNAVAILABLE
    assert time.monotonic() - begun < 10
    assert len(recorder.lost_errors) == 1


def test_a_private_service_that_died_is_told_at_once():
    server, address = serve(ScriptedTrainer(step_seconds=60))
    death = FineryError(Reason.SERVICE_UNAVAILABLE, "The trainer was ended by SIGKILL: it wrote nothing.")
    with Calls(Endpoint("trainer", address, private=True, death=lambda: death)) as calls:
        jobs = TrainingJobs(calls)
        name = create(jobs, TrainingSpec()).name
        server.stop(0).wait()
        begun = time.monotonic()
        with pytest.raises(FineryError, match="SIGKILL"):
            Follower(Recorder(), lambda: death).follow(jobs, name)
    assert time.monotonic() - begun < 5


def test_a_lost_reply_does_not_make_two_jobs():
    trainer = ScriptedTrainer(lost_replies=2)
    server, address = serve(trainer)
    endpoint = Endpoint("trainer", address)
    with Calls(endpoint) as calls:
        job = run(TrainingJobs(calls), TrainingSpec(), Recorder(), endpoint)
    server.stop(0)
    assert list(trainer.jobs) == [job.name]


def test_cancelling_waits_for_the_end():
    trainer = ScriptedTrainer(step_seconds=0.2)
    server, address = serve(trainer)
    endpoint = Endpoint("trainer", address)
    with Calls(endpoint) as calls:
        jobs = TrainingJobs(calls)
        name = create(jobs, TrainingSpec()).name
        recorder = Recorder()
        job = cancel_and_wait(jobs, name, Follower(recorder, endpoint.death))
    server.stop(0)
    assert job.status.state == CANCELLED
    assert TrainingResult.of(job).last_model_checkpoint.startswith("/out/checkpoint-")


def test_what_the_service_refuses_is_told_as_it_is():
    server, address = serve(ScriptedTrainer())
    with Calls(Endpoint("trainer", address)) as calls, pytest.raises(FineryError) as refused:
        Follower(Recorder(), lambda: None, QUICK).follow(TrainingJobs(calls), "trainingJobs/none")
    server.stop(0)
    assert refused.value.reason is Reason.JOB_NOT_FOUND


def test_an_interrupted_follower_goes_on_after_the_last_event():
    server, address = serve(ScriptedTrainer(step_seconds=0.1))

    class Interrupted(Recorder):
        def event(self, event: JobEvent) -> None:
            super().event(event)
            if len(self.events) == 4:
                raise KeyboardInterrupt

    recorder = Interrupted()
    with Calls(Endpoint("trainer", address)) as calls:
        jobs = TrainingJobs(calls)
        name = create(jobs, TrainingSpec()).name
        follower = Follower(recorder, lambda: None, QUICK)
        with pytest.raises(KeyboardInterrupt):
            follower.follow(jobs, name)
        follower.follow(jobs, name)
    server.stop(0)
    assert recorder.tokens == ALL
