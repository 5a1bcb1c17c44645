"""The TrainerService: translates, and hands on to the planner and the job engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from finery.trainer.v1 import trainer_pb2 as pb
from finery.trainer.v1.trainer_pb2_grpc import TrainerServiceServicer, add_TrainerServiceServicer_to_server
from finery_shared.jobs.engine import JobEngine
from finery_shared.jobs.store import JobStore
from finery_shared.rpc import Servicer
from finery_trainer.convert import given, to_job, to_spec
from finery_trainer.planning import Planner

Context = grpc.aio.ServicerContext[Any, Any]


class TrainerServicer(TrainerServiceServicer):
    """Training jobs over gRPC."""

    def __init__(self, engine: JobEngine, store: JobStore, planner: Planner) -> None:
        self._engine = engine
        self._store = store
        self._planner = planner

    async def CreateTrainingJob(
        self, request: pb.CreateTrainingJobRequest, context: Context
    ) -> pb.CreateTrainingJobResponse:
        """Check the spec, the model and the data, store the job, return it queued."""
        asked = request.spec.SerializeToString(deterministic=True)
        record = await asyncio.to_thread(self._store.find_request, request.request_id, asked)
        if record is None:
            spec = await asyncio.to_thread(self._planner.accept, given(request.spec))
            stored = to_spec(spec).SerializeToString(deterministic=True)
            record = await self._engine.create(stored, spec.output_dir, request.request_id, asked)
        return pb.CreateTrainingJobResponse(training_job=to_job(record))

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Context) -> pb.GetTrainingJobResponse:
        """One job."""
        return pb.GetTrainingJobResponse(training_job=to_job(await asyncio.to_thread(self._store.get, request.name)))

    async def ListTrainingJobs(
        self, request: pb.ListTrainingJobsRequest, context: Context
    ) -> pb.ListTrainingJobsResponse:
        """One page of jobs, newest first."""
        records, token = await asyncio.to_thread(self._store.list_jobs, request.page_size, request.page_token)
        return pb.ListTrainingJobsResponse(training_jobs=[to_job(record) for record in records], next_page_token=token)

    async def CancelTrainingJob(
        self, request: pb.CancelTrainingJobRequest, context: Context
    ) -> pb.CancelTrainingJobResponse:
        """Ask a job to stop."""
        return pb.CancelTrainingJobResponse(training_job=to_job(await self._engine.cancel(request.name)))

    async def DeleteTrainingJob(
        self, request: pb.DeleteTrainingJobRequest, context: Context
    ) -> pb.DeleteTrainingJobResponse:
        """Forget a job that has ended."""
        await self._engine.delete(request.name)
        return pb.DeleteTrainingJobResponse()

    async def WatchTrainingJob(
        self, request: pb.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        """A job's events until its final state."""
        async for event in self._engine.watch(request.name, request.resume_token):
            yield pb.WatchTrainingJobResponse(event=event)

    async def ListTrainingMetrics(
        self, request: pb.ListTrainingMetricsRequest, context: Context
    ) -> pb.ListTrainingMetricsResponse:
        """One page of what a job has measured."""
        arguments = (request.name, request.page_size, request.page_token)
        metrics, token = await asyncio.to_thread(self._store.metrics, *arguments)
        return pb.ListTrainingMetricsResponse(metrics=metrics, next_page_token=token)


def trainer_servicer(engine: JobEngine, store: JobStore, planner: Planner) -> Servicer:
    """The entry for `RpcServer`."""
    name = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name
    return Servicer(name, add_TrainerServiceServicer_to_server, TrainerServicer(engine, store, planner))
