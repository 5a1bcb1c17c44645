"""The server and channel factories, over real connections."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from finery.jobs.v1 import worker_pb2, worker_pb2_grpc
from finery.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from finery_shared.errors import FineryError, Reason
from finery_shared.log import logger
from finery_shared.rpc import RpcServer, Servicer, from_rpc_error, open_channel, open_sync_channel

NAME = trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"].full_name
Context = grpc.aio.ServicerContext[Any, Any]


class Trainer(trainer_pb2_grpc.TrainerServiceServicer):
    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def GetTrainingJob(
        self, request: trainer_pb2.GetTrainingJobRequest, context: Context
    ) -> trainer_pb2.GetTrainingJobResponse:
        if request.name == "bug":
            raise KeyError("a secret")
        if request.name.startswith("long "):
            raise FineryError(Reason.MODEL_NOT_FOUND, f"No {request.name}. List the models.", model=request.name)
        if request.name == "slow":
            await asyncio.sleep(60)
        raise FineryError(Reason.JOB_NOT_FOUND, "There is none.", job=request.name)

    async def WatchTrainingJob(
        self, request: trainer_pb2.WatchTrainingJobRequest, context: Context
    ) -> AsyncIterator[trainer_pb2.WatchTrainingJobResponse]:
        try:
            yield trainer_pb2.WatchTrainingJobResponse()
            if request.name == "fail":
                raise FineryError(Reason.RESUME_TOKEN_EXPIRED, "Too old.")
            await asyncio.sleep(60)
        finally:
            self.ended.set()


@pytest.fixture
async def trainer() -> Trainer:
    return Trainer()


@pytest.fixture
async def server(trainer: Trainer) -> AsyncIterator[tuple[RpcServer, str]]:
    entry = Servicer(NAME, trainer_pb2_grpc.add_TrainerServiceServicer_to_server, trainer)
    server = RpcServer("127.0.0.1:0", [entry], logger("test"))
    yield server, await server.start()
    await server.stop(0)


@pytest.fixture
async def channel(server: tuple[RpcServer, str]) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(server[1]) as channel:
        yield channel


async def get(channel: grpc.aio.Channel, name: str, **options: Any) -> FineryError:
    stub = trainer_pb2_grpc.TrainerServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetTrainingJob(trainer_pb2.GetTrainingJobRequest(name=name), **options)
    return from_rpc_error(caught.value, "the trainer")


@pytest.mark.parametrize("text", ["x" * 20_000, "长" * 20_000], ids=["ascii", "chinese"])
async def test_an_error_with_a_long_message_arrives(channel: grpc.aio.Channel, text: str) -> None:
    error = await get(channel, f"long {text}")
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert error.message.startswith("No long ")
    assert error.message.endswith(". List the models.")
    assert len(error.message.encode()) <= 1500
    assert error.metadata["model"].startswith("long ")


async def test_an_error_arrives_as_it_was_raised(channel: grpc.aio.Channel) -> None:
    error = await get(channel, "trainingJobs/1")
    assert (error.reason, error.message, error.metadata) == (
        Reason.JOB_NOT_FOUND,
        "There is none.",
        {"job": "trainingJobs/1"},
    )


async def test_a_bug_keeps_its_text_to_the_log(channel: grpc.aio.Channel) -> None:
    request_id = uuid.uuid4().hex
    error = await get(channel, "bug", metadata=(("x-request-id", request_id),))
    assert error.reason is Reason.INTERNAL
    assert "secret" not in error.message
    assert request_id in error.message


async def test_a_deadline_is_told(channel: grpc.aio.Channel) -> None:
    assert (await get(channel, "slow", timeout=0.2)).reason is Reason.DEADLINE_EXCEEDED


async def test_a_service_that_is_not_there_is_told(channel: grpc.aio.Channel) -> None:
    async with open_channel("127.0.0.1:1") as nowhere:
        error = await get(nowhere, "x")
    assert error.reason is Reason.SERVICE_UNAVAILABLE
    assert "the trainer" in error.message


async def test_a_stream_fails_after_its_messages(channel: grpc.aio.Channel) -> None:
    call = trainer_pb2_grpc.TrainerServiceStub(channel).WatchTrainingJob(
        trainer_pb2.WatchTrainingJobRequest(name="fail")
    )
    received = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for message in call:
            received.append(message)
    assert len(received) == 1
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert from_rpc_error(caught.value, "x").reason is Reason.RESUME_TOKEN_EXPIRED


async def test_a_cancelled_stream_ends_its_handler(channel: grpc.aio.Channel, trainer: Trainer) -> None:
    call = trainer_pb2_grpc.TrainerServiceStub(channel).WatchTrainingJob(trainer_pb2.WatchTrainingJobRequest())
    await call.read()
    call.cancel()
    async with asyncio.timeout(10):
        await trainer.ended.wait()


async def test_health_tells_each_service(server: tuple[RpcServer, str], channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    async def status(service: str) -> str:
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))

    assert (await status(""), await status(NAME)) == ("SERVING", "SERVING")
    await server[0].set_serving(NAME, False)
    assert (await status(""), await status(NAME)) == ("SERVING", "NOT_SERVING")


async def test_reflection_lists_the_services(channel: grpc.aio.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    names = {s.name for s in (await call.read()).list_services_response.service}
    assert {NAME, "grpc.health.v1.Health"} <= names


async def test_a_port_in_use_is_refused_with_the_setting(server: tuple[RpcServer, str]) -> None:
    second = RpcServer(server[1], [], logger("test"))
    with pytest.raises(FineryError) as caught:
        await second.start("FINERY_TRAINER_LISTEN")
    assert caught.value.reason is Reason.PORT_IN_USE
    assert "FINERY_TRAINER_LISTEN" in caught.value.message
    await second.stop(0)


async def test_a_method_that_is_not_served_is_unsupported(server: tuple[RpcServer, str]) -> None:
    def call() -> FineryError:
        with open_sync_channel(server[1]) as channel, pytest.raises(grpc.RpcError) as caught:
            worker_pb2_grpc.WorkerServiceStub(channel).Report(worker_pb2.ReportRequest(), timeout=10)
        return from_rpc_error(caught.value, "the trainer")

    assert (await asyncio.to_thread(call)).reason is Reason.UNSUPPORTED
