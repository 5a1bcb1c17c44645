"""The WorkerService of every service that runs jobs."""

from __future__ import annotations

from typing import Any

import grpc

from finery.jobs.v1 import worker_pb2
from finery.jobs.v1.worker_pb2 import ReportRequest, ReportResponse
from finery.jobs.v1.worker_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server
from finery_shared.jobs.engine import JobEngine
from finery_shared.rpc.server import Servicer


class WorkerServicer(WorkerServiceServicer):
    """Hands workers' reports to the engine."""

    def __init__(self, engine: JobEngine) -> None:
        self._engine = engine

    async def Report(self, request: ReportRequest, context: grpc.aio.ServicerContext[Any, Any]) -> ReportResponse:
        """Store a worker's updates and tell it whether to stop."""
        return await self._engine.report(request)


def worker_servicer(engine: JobEngine) -> Servicer:
    """The entry for `RpcServer`."""
    name = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
    return Servicer(name, add_WorkerServiceServicer_to_server, WorkerServicer(engine))
