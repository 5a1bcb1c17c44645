"""One job's trouble is not that of the others, and always comes to an end."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from finery_shared.jobs.executor import Task
from finery_shared.jobs.patience import EngineSettings
from finery_shared.jobs.states import FAILED, QUEUED, RUNNING, SUCCEEDED
from tests.fakes.toy_jobs import create, serving, states, until, watch
from tests.fakes.toy_service import ToyExecutor, ToyService


class Faulty(ToyExecutor):
    """Can't start the workers of some jobs, nor find those of others."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self.unstartable = ""
        self.lost = ""

    def submit(self, task: Task, environment: Mapping[str, str], ranks: int = 0) -> str:
        if task.job == self.unstartable:
            raise ValueError("embedded null byte")
        return super().submit(task, environment, ranks)

    def poll(self, handle: str) -> bool:
        if handle == self.lost:
            raise PermissionError("may not look at it")
        return super().poll(handle)


async def test_what_can_not_be_published_fails_its_job_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with serving(ToyService(tmp_path / "state")) as toy:
        bad = await create(toy, tmp_path, destination=str(tmp_path / "file" / "result"))
        good = await create(toy, tmp_path)
        assert states(await watch(toy, bad.name))[-1] == FAILED
        assert states(await watch(toy, good.name))[-1] == SUCCEEDED
        error = toy.store.get(bad.name).status.error
    assert error.reason == "INTERNAL"
    assert "can't be published: FileExistsError" in error.message
    assert str(tmp_path / "file") in error.message


async def test_a_worker_that_can_not_be_started_fails_its_job_alone(tmp_path: Path) -> None:
    executor = Faulty(tmp_path / "state")
    async with serving(ToyService(tmp_path / "state", executor=executor)) as toy:
        first = await create(toy, tmp_path, steps=1)
        bad = await create(toy, tmp_path)
        good = await create(toy, tmp_path, destination=str(tmp_path / "other"))
        executor.unstartable = bad.name
        assert states(await watch(toy, first.name))[-1] == SUCCEEDED
        assert states(await watch(toy, bad.name)) == [QUEUED, RUNNING, FAILED]
        assert states(await watch(toy, good.name))[-1] == SUCCEEDED
        assert "can't be started: ValueError: embedded null byte" in toy.store.get(bad.name).status.error.message


async def test_a_job_whose_worker_can_not_be_looked_at_leaves_the_others_alone(tmp_path: Path) -> None:
    executor = Faulty(tmp_path / "state")
    toy = ToyService(tmp_path / "state", EngineSettings(max_running_jobs=2), executor=executor)
    async with serving(toy):
        lost = await create(toy, tmp_path, steps=600, pause=1.0)
        await until(lambda: toy.store.get(lost.name).handle)
        executor.lost = toy.store.get(lost.name).handle or ""
        good = await create(toy, tmp_path, destination=str(tmp_path / "other"))
        assert states(await watch(toy, good.name))[-1] == SUCCEEDED
        assert toy.store.get(lost.name).state == RUNNING
    assert toy.store.get(lost.name).state == QUEUED


@pytest.mark.parametrize("left", ["", "ff", "0a"], ids=["empty", "nonsense", "torn"])
async def test_a_broken_outcome_file_counts_as_none(tmp_path: Path, left: str) -> None:
    async with serving(ToyService(tmp_path / "state")) as toy:
        job = await create(toy, tmp_path, die_at=1, die_attempts=1, leave=left)
        assert states(await watch(toy, job.name)) == [QUEUED, RUNNING, QUEUED, RUNNING, SUCCEEDED]
