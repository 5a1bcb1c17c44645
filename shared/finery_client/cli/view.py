"""A job on the screen: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from google.protobuf.duration_pb2 import Duration
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from finery.jobs.v1.jobs_pb2 import JobEvent, JobMetrics, JobProgress, JobStatus
from finery_client.cli.screen import Screen
from finery_client.sdk import OnEvent
from finery_shared.errors import FineryError
from finery_shared.jobs.states import QUEUED, RUNNING, state_name

_LINES_A_PHASE = 10
_WARNING = "WARNING:"


class JobView:
    """Listens to one job. Use it in a ``with`` statement, so that the bar goes away.

    ``on_queued`` is called once it has said that the job is queued.
    """

    def __init__(
        self,
        screen: Screen,
        name: str,
        on_event: OnEvent | None = None,
        on_queued: Callable[[], None] | None = None,
    ) -> None:
        self._screen = screen
        self._name = name
        self._on_event = on_event
        self._on_queued = on_queued
        self._bar = _Bar(screen) if screen.interactive else None
        self._plain = _Lines(screen)
        self._loss = ""
        self._attempt = 0

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def event(self, event: JobEvent) -> None:
        """Show what happened."""
        if self._on_event is not None:
            self._on_event(event)
        match event.WhichOneof("payload"):
            case "status":
                self._status(event.status)
            case "progress":
                self._progress(event.progress)
            case "metrics":
                self._metrics(event.metrics)
            case "log":
                tell = self._screen.warn if event.log.text.startswith(_WARNING) else self._screen.say
                tell(f"  {event.log.text}")

    def lost(self, error: FineryError) -> None:
        """Say that the service is away."""
        self._screen.warn(f"{error.message} Trying again; the job is safe.")

    def regained(self) -> None:
        """Say that it is back."""
        self._screen.say("The service is back.")

    def _status(self, status: JobStatus) -> None:
        attempt = f", attempt {status.attempt}" if status.attempt > 1 and status.state == RUNNING else ""
        self._screen.say(f"{self._name}: {state_name(status.state).lower()}{attempt}")
        if status.state == QUEUED and self._on_queued is not None:
            self._on_queued()

    def _progress(self, progress: JobProgress) -> None:
        (self._bar or self._plain).show(progress, self._loss)

    def _metrics(self, metrics: JobMetrics) -> None:
        self._loss = _losses(metrics.values) or self._loss
        if self._bar is not None:
            self._bar.loss(self._loss)
        elif values := _numbers(metrics.values):
            self._screen.say(f"  {metrics.phase or 'step'} {metrics.step}: {values}")


class _Bar:
    """Phase, bar, steps, loss and time on a terminal."""

    def __init__(self, screen: Screen) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[steps]}"),
            TextColumn("{task.fields[eta]}"),
            TextColumn("{task.fields[loss]}", style="cyan"),
            TimeElapsedColumn(),
            console=screen.remarks,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task("waiting", total=None, steps="", eta="", loss="")

    def start(self) -> None:
        """Show it."""
        self._progress.start()

    def stop(self) -> None:
        """Take it away."""
        self._progress.stop()

    def show(self, progress: JobProgress, loss: str) -> None:
        """Move it."""
        self._progress.update(
            self._task,
            description=progress.phase or "working",
            completed=progress.step,
            total=progress.total or None,
            steps=_steps(progress),
            eta=_eta(progress),
            loss=loss,
        )

    def loss(self, loss: str) -> None:
        """Change the loss."""
        self._progress.update(self._task, loss=loss)


class _Lines:
    """A line for each phase, and about ten for its steps."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._shown = ("", -1)

    def show(self, progress: JobProgress, loss: str) -> None:
        """Write a line if there is enough that is new."""
        tenth = progress.step * _LINES_A_PHASE // progress.total if progress.total else 0
        if (progress.phase, tenth) == self._shown:
            return
        self._shown = (progress.phase, tenth)
        words = (progress.phase or "working", _steps(progress), loss, _eta(progress))
        self._screen.say("  " + "  ".join(filter(None, words)))


def _steps(progress: JobProgress) -> str:
    return f"{progress.step}/{progress.total}" if progress.total else ""


def _eta(progress: JobProgress) -> str:
    return f"ETA {clock(progress.eta)}" if progress.HasField("eta") else ""


def clock(duration: Duration) -> str:
    """Hours, minutes and seconds, as 1:02:03 or 2:03."""
    minutes, seconds = divmod(max(0, round(duration.seconds + duration.nanos / 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _losses(values: Mapping[str, float]) -> str:
    names = [name for name in ("loss", "train_loss", "eval_loss") if name in values]
    words = [f"{name.removeprefix('train_')} {values[name]:.4f}" for name in names]
    if words and "tokens_per_second" in values:
        words.append(f"{values['tokens_per_second']:,.0f} tok/s")
    if words and "memory_gib" in values:
        words.append(f"{values['memory_gib']:.1f} GiB")
    return "  ".join(words)


def _numbers(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in sorted(values.items()))
