"""A client that leaves in the middle of a change: the change is made to its end, and everyone can see it."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.deployments.model import DeploymentRecord
from finery_inference.deployments.store import DeploymentStore
from tests.unit.inference.harness import Harness, eventually, write_model


class HeldStore(DeploymentStore):
    """A store that writes, and answers when it is told to."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.written, self.go_on = threading.Event(), threading.Event()

    def create(self, *arguments: Any) -> DeploymentRecord:
        record = super().create(*arguments)
        self._hold()
        return record

    def delete(self, name: str) -> None:
        super().delete(name)
        self._hold()

    def _hold(self) -> None:
        self.written.set()
        assert self.go_on.wait(10)


async def leave_in_the_middle(call: Any, store: HeldStore) -> None:
    """Cancel a call once it has written to the store."""
    task = asyncio.ensure_future(call)
    assert await asyncio.to_thread(store.written.wait, 10)
    call.cancel()
    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await task
    await asyncio.sleep(0.05)  # for the cancellation to reach the service


async def test_a_client_that_leaves_while_its_deployment_is_made_and_removed(tmp_path: Path) -> None:
    harness = Harness(tmp_path, store=HeldStore)
    store = harness.store
    assert isinstance(store, HeldStore)
    await harness.start()
    path = str(write_model(tmp_path / "toy-chat"))
    spec = d.DeploymentSpec(model={"model_id_or_path": path}, served_model_name="m")  # type: ignore[arg-type]
    create = harness.deployments.CreateDeployment(d.CreateDeploymentRequest(spec=spec))
    await leave_in_the_middle(create, store)
    store.go_on.set()
    made = await harness.until("m", d.DEPLOYMENT_STATE_READY)
    assert [record.name for record in store.all()] == [made.name]

    store.written.clear()
    store.go_on.clear()
    await leave_in_the_middle(harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=made.name)), store)
    store.go_on.set()
    await eventually(lambda: not harness.factory.engines[0].alive)
    assert await harness.list() == []
    assert store.all() == []
    await harness.stop()


async def test_a_stopping_process_ends_what_it_began(tmp_path: Path) -> None:
    harness = Harness(tmp_path, store=HeldStore)
    assert isinstance(harness.store, HeldStore)
    await harness.start()
    path = str(write_model(tmp_path / "toy-chat"))
    spec = d.DeploymentSpec(model={"model_id_or_path": path}, served_model_name="m")  # type: ignore[arg-type]
    call = harness.deployments.CreateDeployment(d.CreateDeploymentRequest(spec=spec))
    await leave_in_the_middle(call, harness.store)
    stopping = asyncio.create_task(harness.stop())
    await asyncio.sleep(0.1)
    assert not stopping.done()
    harness.store.go_on.set()
    await asyncio.wait_for(stopping, 10)
    assert not any(engine.alive for engine in harness.factory.engines)
