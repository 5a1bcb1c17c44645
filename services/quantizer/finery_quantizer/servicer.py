"""The QuantizerService: translates, and hands on to the planner and the job engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from finery.quantizer.v1 import quantizer_pb2 as pb
from finery.quantizer.v1.quantizer_pb2_grpc import QuantizerServiceServicer, add_QuantizerServiceServicer_to_server
from finery_quantizer.convert import filled, request_from, to_job
from finery_quantizer.planning import Planner
from finery_shared.jobs.engine import JobEngine
from finery_shared.jobs.store import JobStore
from finery_shared.rpc import Servicer

Context = grpc.aio.ServicerContext[Any, Any]


class QuantizerServicer(QuantizerServiceServicer):
    """Export jobs over gRPC."""

    def __init__(self, engine: JobEngine, store: JobStore, planner: Planner) -> None:
        self._engine = engine
        self._store = store
        self._planner = planner

    async def CreateExportJob(self, request: pb.CreateExportJobRequest, context: Context) -> pb.CreateExportJobResponse:
        """Check the spec against the file system, store the job, return it queued."""
        asked = request.spec.SerializeToString(deterministic=True)
        record = await asyncio.to_thread(self._store.find_request, request.request_id, asked)
        if record is None:
            accepted = await asyncio.to_thread(self._planner.accept, request_from(request.spec))
            spec = filled(request.spec, accepted.request).SerializeToString(deterministic=True)
            record = await self._engine.create(spec, str(accepted.work_dir), request.request_id, asked)
        return pb.CreateExportJobResponse(export_job=to_job(record))

    async def GetExportJob(self, request: pb.GetExportJobRequest, context: Context) -> pb.GetExportJobResponse:
        """One job."""
        return pb.GetExportJobResponse(export_job=to_job(await asyncio.to_thread(self._store.get, request.name)))

    async def ListExportJobs(self, request: pb.ListExportJobsRequest, context: Context) -> pb.ListExportJobsResponse:
        """One page of jobs, newest first."""
        records, token = await asyncio.to_thread(self._store.list_jobs, request.page_size, request.page_token)
        return pb.ListExportJobsResponse(export_jobs=[to_job(record) for record in records], next_page_token=token)

    async def CancelExportJob(self, request: pb.CancelExportJobRequest, context: Context) -> pb.CancelExportJobResponse:
        """Ask a job to stop."""
        return pb.CancelExportJobResponse(export_job=to_job(await self._engine.cancel(request.name)))

    async def DeleteExportJob(self, request: pb.DeleteExportJobRequest, context: Context) -> pb.DeleteExportJobResponse:
        """Forget a job that has ended."""
        await self._engine.delete(request.name)
        return pb.DeleteExportJobResponse()

    async def WatchExportJob(
        self, request: pb.WatchExportJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchExportJobResponse]:
        """A job's events until its final state."""
        async for event in self._engine.watch(request.name, request.resume_token):
            yield pb.WatchExportJobResponse(event=event)

    async def ListExportMetrics(
        self, request: pb.ListExportMetricsRequest, context: Context
    ) -> pb.ListExportMetricsResponse:
        """One page of what a job has measured."""
        arguments = (request.name, request.page_size, request.page_token)
        metrics, token = await asyncio.to_thread(self._store.metrics, *arguments)
        return pb.ListExportMetricsResponse(metrics=metrics, next_page_token=token)


def quantizer_servicer(engine: JobEngine, store: JobStore, planner: Planner) -> Servicer:
    """The entry for `RpcServer`."""
    name = pb.DESCRIPTOR.services_by_name["QuantizerService"].full_name
    return Servicer(name, add_QuantizerServiceServicer_to_server, QuantizerServicer(engine, store, planner))
