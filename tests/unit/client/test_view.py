import io
from collections.abc import Iterator

import pytest
from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from finery.jobs.v1.jobs_pb2 import JobEvent, JobLogLine, JobMetrics, JobProgress, JobStatus
from finery_client.cli.screen import Screen
from finery_client.cli.view import JobView, clock
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.states import RUNNING, SUCCEEDED


def story() -> Iterator[JobEvent]:
    yield JobEvent(status=JobStatus(state=RUNNING, attempt=2))
    yield JobEvent(progress=JobProgress(phase="loading"))
    for step in range(1, 101):
        eta = Duration(seconds=100 - step)
        yield JobEvent(progress=JobProgress(phase="training", step=step, total=100, eta=eta))
        if step % 50 == 0:
            yield JobEvent(metrics=JobMetrics(step=step, phase="train", values={"loss": 100 / step, "lr": 5e-4}))
    yield JobEvent(log=JobLogLine(text="[checked] <all>"))
    yield JobEvent(status=JobStatus(state=SUCCEEDED, attempt=2))


def test_without_a_terminal_there_are_plain_lines(capsys: pytest.CaptureFixture[str]):
    with JobView(Screen(), "trainingJobs/1") as view:
        for event in story():
            view.event(event)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "trainingJobs/1: running, attempt 2"
    assert lines[1] == "  loading"
    assert lines[2] == "  training  1/100  ETA 1:39"
    assert "  train 50: loss 2  lr 0.0005" in lines
    assert "  training  60/100  loss 2.0000  ETA 0:40" in lines
    assert lines[-2:] == ["  [checked] <all>", "trainingJobs/1: succeeded"]
    assert sum(line.startswith("  training") for line in lines) == 11, "about ten lines, not a hundred"


def test_on_a_terminal_there_is_a_bar():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with JobView(Screen(remarks=console), "trainingJobs/1") as view:
        for event in story():
            view.event(event)
    shown = stream.getvalue()
    assert "\x1b[" in shown
    assert "100/100" in shown
    assert "trainingJobs/1: succeeded" in shown


def test_speed_and_memory_stand_beside_the_loss(capsys: pytest.CaptureFixture[str]):
    view = JobView(Screen(), "trainingJobs/1")
    figures = {"loss": 1.25, "tokens_per_second": 17654.3, "memory_gib": 52.96}
    view.event(JobEvent(metrics=JobMetrics(step=5, phase="train", values=figures)))
    view.event(JobEvent(progress=JobProgress(phase="training", step=6, total=100, eta=Duration(seconds=94))))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1] == "  training  6/100  loss 1.2500  17,654 tok/s  53.0 GiB  ETA 1:34"


def test_a_jobs_warning_stands_out():
    stream = io.StringIO()
    view = JobView(Screen(remarks=Console(file=stream, force_terminal=True, width=120)), "trainingJobs/1")
    view.event(JobEvent(log=JobLogLine(text="WARNING: too few steps")))
    view.event(JobEvent(log=JobLogLine(text="all is well")))
    warning, plain = stream.getvalue().splitlines()
    assert "\x1b[33m" in warning
    assert "\x1b[33m" not in plain


def test_a_lost_service_is_said_and_its_return(capsys: pytest.CaptureFixture[str]):
    view = JobView(Screen(), "trainingJobs/1")
    view.lost(FineryError(Reason.SERVICE_UNAVAILABLE, "The trainer at x can't be reached."))
    view.regained()
    assert capsys.readouterr().err.splitlines() == [
        "The trainer at x can't be reached. Trying again; the job is safe.",
        "The service is back.",
    ]


def test_errors_are_one_line_without_markup(capsys: pytest.CaptureFixture[str]):
    Screen().error(FineryError(Reason.INTERNAL, "a [bold]b\nc"))
    assert capsys.readouterr().err == "error: a [bold]b c\n"


def test_tables_on_a_pipe_are_whole(capsys: pytest.CaptureFixture[str]):
    Screen().table(("job", "output"), [("trainingJobs/1", "/x" * 200)])
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["job", "output"]
    assert out.splitlines()[1] == "trainingJobs/1  " + "/x" * 200


def test_clock():
    assert clock(Duration(seconds=59, nanos=600_000_000)) == "1:00"
    assert clock(Duration(seconds=3723)) == "1:02:03"
