"""Workers report to a service that lets no stranger in."""

from pathlib import Path

import psutil
import pytest

from finery_shared.jobs.states import SUCCEEDED
from finery_shared.rpc import RpcSecurity
from tests.fakes.certificates import Authority
from tests.fakes.toy_jobs import create, serving, states, until, watch, worker_pid
from tests.fakes.toy_service import ToyService

TOKEN = "a-token-of-the-tests"


@pytest.mark.parametrize("guards", ["token", "certificates", "both"])
async def test_a_worker_carries_what_its_service_asks_for(tmp_path: Path, guards: str) -> None:
    settings = {} if guards == "token" else Authority(tmp_path / "ca").issue("127.0.0.1").rpc()
    if guards != "certificates":
        settings |= {"FINERY_RPC_TOKEN": TOKEN}
    async with serving(ToyService(tmp_path / "state", security=RpcSecurity.from_env(settings))) as toy:
        job = await create(toy, tmp_path, steps=2)
        events = await watch(toy, job.name)
        assert states(events)[-1] == SUCCEEDED
        # These came by WorkerService.Report alone.
        assert [event.metrics.values["value"] for event in events if event.HasField("metrics")] == [0.5, 1.0]


async def test_the_token_stands_in_no_command_line_and_no_file(tmp_path: Path) -> None:
    security = RpcSecurity.from_env({"FINERY_RPC_TOKEN": TOKEN})
    async with serving(ToyService(tmp_path / "state", security=security)) as toy:
        job = await create(toy, tmp_path, steps=20, pause=0.2)
        await until(lambda: toy.store.get(job.name).handle)
        worker = psutil.Process(worker_pid(toy.store.get(job.name)))
        assert worker.environ()["FINERY_RPC_TOKEN"] == TOKEN
        assert not any(TOKEN in part for part in worker.cmdline())
        files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
        assert files and not [path for path in files if TOKEN.encode() in path.read_bytes()]
        await toy.engine.cancel(job.name)
