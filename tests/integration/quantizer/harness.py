"""The quantizer service with real workers, and what a client sees of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc

from finery.artifacts.v1.artifacts_pb2 import ModelSource
from finery.jobs.v1.jobs_pb2 import JobEvent
from finery.quantizer.v1 import quantizer_pb2 as pb
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceStub
from finery_quantizer.bootstrap import WORKER, QuantizerApplication
from finery_quantizer.settings import QuantizerSettings
from finery_shared.rpc import open_channel

DEADLINE = 400.0


class Quantizer:
    """One running service whose home is below `root`."""

    def __init__(self, root: Path, readable: list[Path], worker: str = WORKER) -> None:
        settings = QuantizerSettings(
            listen="127.0.0.1:0",
            home=root / "home",
            allowed_roots=(root, *readable),
            cpu_calibration_tokens=1024,
        )
        self._application = QuantizerApplication(settings, worker=worker)
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        """Serve."""
        self._channel = open_channel(await self._application.start())
        self._stub = QuantizerServiceStub(self._channel)

    async def stop(self) -> None:
        """End the service and its workers."""
        assert self._channel is not None
        await self._channel.close()
        await self._application.stop()

    async def create(self, **spec: object) -> str:
        """Create a job; its name."""
        request = pb.CreateExportJobRequest(spec=pb.ExportSpec(**spec))  # type: ignore[arg-type]
        return (await self._stub.CreateExportJob(request)).export_job.name

    async def create_for_model(self, model: Path, output: Path) -> str:
        """Create a job that quantizes a plain model."""
        source = ModelSource(model_id_or_path=str(model))
        return await self.create(model=source, quant_bits=4, output_dir=str(output))

    async def events(self, name: str) -> AsyncIterator[JobEvent]:
        """What happens to a job until it ends."""
        async with asyncio.timeout(DEADLINE):
            async for response in self._stub.WatchExportJob(pb.WatchExportJobRequest(name=name)):
                yield response.event

    async def cancel_when(self, name: str, reached: Callable[[JobEvent], bool]) -> None:
        """Cancel a job as soon as an event is seen."""
        async for event in self.events(name):
            if reached(event):
                await self._stub.CancelExportJob(pb.CancelExportJobRequest(name=name))
                return

    async def finished(self, name: str) -> pb.ExportJob:
        """The job once it has ended."""
        async for _ in self.events(name):
            pass
        return (await self._stub.GetExportJob(pb.GetExportJobRequest(name=name))).export_job
