"""A job that one service accepted is run by a later one, whatever directories that allows."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from finery.quantizer.v1 import quantizer_pb2 as pb
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceStub
from finery_quantizer.bootstrap import QuantizerApplication
from finery_quantizer.settings import QuantizerSettings
from finery_shared.rpc import open_channel
from tests.unit.quantizer.models import publish_adapter, write_adapter, write_model

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def quantizer(tmp_path: Path, allowed: Path, running: int) -> AsyncIterator[QuantizerServiceStub]:
    settings = QuantizerSettings(
        listen="127.0.0.1:0", home=tmp_path / "home", allowed_roots=(allowed,), max_running_jobs=running
    )
    application = QuantizerApplication(settings, worker="tests.unit.quantizer.planning_worker")
    channel = open_channel(await application.start())
    yield QuantizerServiceStub(channel)
    await channel.close()
    await application.stop()


async def test_a_job_keeps_the_directories_that_it_was_accepted_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    base = write_model(tmp_path / "one" / "tiny-chat")
    checkpoint = publish_adapter(write_adapter(tmp_path / "one" / "checkpoint-5", base), base, "tiny-chat")
    create = pb.CreateExportJobRequest(spec=pb.ExportSpec(ckpt_dir=str(checkpoint), merge_lora=True))
    async with quantizer(tmp_path, tmp_path / "one", running=0) as stub:
        name = (await stub.CreateExportJob(create)).export_job.name
    async with quantizer(tmp_path, tmp_path / "two", running=1) as stub, asyncio.timeout(60):
        async for _ in stub.WatchExportJob(pb.WatchExportJobRequest(name=name)):
            pass
        error = (await stub.GetExportJob(pb.GetExportJobRequest(name=name))).export_job.status.error
        with pytest.raises(grpc.aio.AioRpcError, match="lies outside the directories"):
            await stub.CreateExportJob(create)
    assert (error.reason, error.message) == ("UNSUPPORTED", f"It was only to plan {checkpoint}-merged.")
