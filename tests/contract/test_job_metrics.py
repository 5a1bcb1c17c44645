"""What a service with jobs shows to Prometheus."""

from pathlib import Path

from prometheus_client import generate_latest

from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.states import FAILED, SUCCEEDED
from tests.fakes.samples import parse, value
from tests.fakes.toy_jobs import create, ended, serving, states, until, watch
from tests.fakes.toy_service import ToyService


def figure(toy: ToyService, name: str, **labels: str) -> float | None:
    return value(parse(generate_latest(toy.registry).decode()), name, **labels)


async def test_jobs_by_state_attempts_and_durations(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state", EngineSettings(max_attempts=2))) as toy:
        first = await create(toy, tmp_path / "a", steps=3, pause=0.2)
        second = await create(toy, tmp_path / "b", die_at=1)
        await until(lambda: figure(toy, "finery_jobs", state="RUNNING") == 1)
        assert figure(toy, "finery_jobs", state="QUEUED") == 1
        assert states(await watch(toy, first.name))[-1] == SUCCEEDED
        assert states(await watch(toy, second.name))[-1] == FAILED
        await until(lambda: figure(toy, "finery_job_duration_seconds_count", state="FAILED") == 1)
        assert figure(toy, "finery_jobs", state="SUCCEEDED") == figure(toy, "finery_jobs", state="FAILED") == 1
        assert figure(toy, "finery_jobs", state="QUEUED") == figure(toy, "finery_jobs", state="RUNNING") == 0
        attempts, lost = (figure(toy, f"finery_job_attempts_{what}total") for what in ("", "lost_"))
        assert attempts is not None and lost is not None and attempts == 1 + lost >= 3
        assert figure(toy, "finery_job_duration_seconds_count", state="SUCCEEDED") == 1
        seconds = figure(toy, "finery_job_duration_seconds_sum", state="SUCCEEDED")
        assert seconds is not None and seconds >= 0.6
        reports = figure(toy, "finery_rpc_calls_total", method="/finery.jobs.v1.WorkerService/Report", code="OK")
        assert reports is not None and reports >= 1
        await toy.engine.delete(first.name)
        assert figure(toy, "finery_jobs", state="SUCCEEDED") == 0


async def test_a_job_that_never_began_is_counted(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state", EngineSettings(max_running_jobs=0))) as toy:
        job = await create(toy, tmp_path)
        assert figure(toy, "finery_jobs", state="QUEUED") == 1
        await toy.engine.cancel(job.name)
        await until(lambda: ended(toy.store, job.name))
        assert figure(toy, "finery_jobs", state="CANCELLED") == 1
        assert figure(toy, "finery_job_attempts_total") == 0
