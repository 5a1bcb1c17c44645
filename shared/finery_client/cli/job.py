"""Following a job on the screen, and what Ctrl-C does to it."""

from __future__ import annotations

import shlex
from typing import Any, TypeVar

from finery.trainer.v1.trainer_pb2 import TrainingJob
from finery_client.cli.queued import QueueView
from finery_client.cli.screen import Screen
from finery_client.cli.signals import Stopped
from finery_client.cli.view import JobView
from finery_client.endpoints import Endpoint
from finery_client.follow import Follower
from finery_client.jobs import Job, Jobs
from finery_client.results import TrainingResult
from finery_client.run import cancel_and_wait, create, succeeded
from finery_client.sdk import OnEvent

Spec = TypeVar("Spec")
J = TypeVar("J", bound=Job)


def run_job(jobs: Jobs[Spec, J], spec: Spec, endpoint: Endpoint, screen: Screen, on_event: OnEvent | None = None) -> J:
    """Create a job and follow it; returns it if it succeeded. Raises its error, or Stopped."""
    return watch_job(jobs, create(jobs, spec).name, endpoint, screen, on_event)


def watch_job(jobs: Jobs[Any, J], name: str, endpoint: Endpoint, screen: Screen, on_event: OnEvent | None = None) -> J:
    """Follow a job; Ctrl-C detaches from a running service, and cancels with a private one."""
    with JobView(screen, name, on_event, QueueView(jobs, name, screen).tell) as view:
        follower = Follower(view, endpoint.death)
        try:
            if not endpoint.private:
                screen.say(f"{name} is at {endpoint.target.removeprefix('The ')}; Ctrl-C leaves it running.")
            return succeeded(follower.follow(jobs, name))
        except KeyboardInterrupt:
            if endpoint.private:
                _cancel(jobs, name, follower, screen)
            else:
                screen.say(f"{name} goes on. Watch it: finery jobs watch {name} - stop it: finery jobs cancel {name}")
            raise Stopped from None


def _cancel(jobs: Jobs[Any, Job], name: str, follower: Follower, screen: Screen) -> None:
    screen.say(f"Cancelling {name}, since its service ends with this command (Ctrl-C again: at once).")
    try:
        job = cancel_and_wait(jobs, name, follower)
    except KeyboardInterrupt:
        screen.say("Stopping at once.")
        return
    if isinstance(job, TrainingJob) and (last := TrainingResult.of(job).last_model_checkpoint):
        screen.say(f"A checkpoint was complete: {last}")
        screen.say(f"To go on from it, give the same command with --resume_from_checkpoint {shlex.quote(last)}.")
    else:
        screen.say("Nothing was complete yet: the same command starts over.")
    screen.say("With `finery up` running, a job goes on without the command that started it.")
