"""What a job leaves behind: no secret after its attempts, nothing after its deletion."""

import json
from pathlib import Path

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.states import SUCCEEDED
from tests.fakes.toy_jobs import create, measured, serving, states, until, watch
from tests.fakes.toy_service import ToyService


async def test_secrets_go_with_the_attempt_and_logs_with_the_job(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with serving(ToyService(state)) as toy:
        kept = await create(toy, tmp_path, steps=1, destination=str(tmp_path / "kept"))
        assert states(await watch(toy, kept.name))[-1] == SUCCEEDED
        job = await create(toy, tmp_path, steps=2, pause=0.5, die_at=1, die_attempts=1)
        await until(lambda: toy.store.get(job.name).status.attempt == 2 and measured(toy.store, job.name))
        (task,) = (state / "tasks").iterdir()
        assert json.loads(task.read_text())["secret"] == toy.store.get(job.name).secret
        with pytest.raises(FineryError) as caught:
            await toy.engine.delete(job.name)
        assert caught.value.reason is Reason.JOB_NOT_FINISHED
        assert states(await watch(toy, job.name))[-1] == SUCCEEDED
        assert list((state / "tasks").iterdir()) == []
        assert logs(state) == [f"{file_name(kept.name)}-1.log", *(f"{file_name(job.name)}-{n}.log" for n in (1, 2))]
        await toy.engine.delete(job.name)
        assert logs(state) == [f"{file_name(kept.name)}-1.log"]
        with pytest.raises(FineryError):
            toy.store.get(job.name)


async def test_a_stopped_service_leaves_no_secret(tmp_path: Path) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        job = await create(toy, tmp_path, steps=600, pause=1.0)
        await until(lambda: toy.store.get(job.name).handle)
    assert list((tmp_path / "state" / "tasks").iterdir()) == []


def file_name(job: str) -> str:
    return job.replace("/", "-")


def logs(state: Path) -> list[str]:
    """The logs, oldest first."""
    return [path.name for path in sorted((state / "logs").iterdir(), key=lambda path: path.stat().st_ctime_ns)]
