"""Who may call a service: holders of the token, holders of a certificate."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from finery.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from finery_shared.errors import FineryError, Reason
from finery_shared.log import logger
from finery_shared.rpc import RpcSecurity, RpcServer, Servicer, from_rpc_error, open_channel, open_sync_channel
from tests.contract.test_rpc import NAME, Trainer
from tests.fakes.certificates import Authority

TOKEN = "a-token-of-the-tests"
Serve = Callable[[Mapping[str, str]], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(settings: Mapping[str, str]) -> str:
            entry = Servicer(NAME, trainer_pb2_grpc.add_TrainerServiceServicer_to_server, Trainer())
            server = RpcServer("127.0.0.1:0", [entry], logger("test"), security=RpcSecurity.from_env(settings))
            stack.push_async_callback(server.stop, 0)
            return await server.start()

        yield start


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


async def get(address: str, settings: Mapping[str, str], metadata: tuple[tuple[str, str], ...] = ()) -> FineryError:
    """What a call that gets through ends with is JOB_NOT_FOUND."""
    async with open_channel(address, RpcSecurity.from_env(settings)) as channel:
        stub = trainer_pb2_grpc.TrainerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetTrainingJob(trainer_pb2.GetTrainingJobRequest(name="x"), metadata=metadata, timeout=10)
    return from_rpc_error(caught.value, "the trainer")


async def test_the_token_opens_unary_calls_and_streams(serve: Serve) -> None:
    settings = {"FINERY_RPC_TOKEN": TOKEN}
    address = await serve(settings)
    assert (await get(address, settings)).reason is Reason.JOB_NOT_FOUND
    async with open_channel(address, RpcSecurity.from_env(settings)) as channel:
        call = trainer_pb2_grpc.TrainerServiceStub(channel).WatchTrainingJob(trainer_pb2.WatchTrainingJobRequest())
        assert await call.read() == trainer_pb2.WatchTrainingJobResponse()
        call.cancel()

    def sync() -> Reason:
        with open_sync_channel(address, RpcSecurity.from_env(settings)) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetTrainingJob(trainer_pb2.GetTrainingJobRequest(name="x"), timeout=10)
            return from_rpc_error(caught.value, "x").reason

    assert await asyncio.to_thread(sync) is Reason.JOB_NOT_FOUND


@pytest.mark.parametrize(
    "shown", [None, "", TOKEN, f"Basic {TOKEN}", "Bearer wrong-token-of-the-tests", f"Bearer {TOKEN} "]
)
async def test_without_the_token_nothing_is_served(serve: Serve, shown: str | None) -> None:
    address = await serve({"FINERY_RPC_TOKEN": TOKEN})
    with capture_logs() as lines:
        error = await get(address, {}, () if shown is None else (("authorization", shown),))
    assert error.reason is Reason.UNAUTHENTICATED
    assert "FINERY_RPC_TOKEN_FILE" in error.message
    assert TOKEN not in error.message
    assert TOKEN not in str(lines)


async def test_streams_and_reflection_need_the_token_and_health_does_not(serve: Serve) -> None:
    address = await serve({"FINERY_RPC_TOKEN": TOKEN})
    async with open_channel(address) as channel:
        watch = trainer_pb2_grpc.TrainerServiceStub(channel).WatchTrainingJob(trainer_pb2.WatchTrainingJobRequest())
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        look = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=10)
        for call in (watch, look):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=NAME))
        assert health.status == health_pb2.HealthCheckResponse.SERVING


async def test_both_sides_show_certificates(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    service = authority.issue("127.0.0.1").rpc()
    address = await serve(service)
    assert (await get(address, authority.issue("caller").rpc())).reason is Reason.JOB_NOT_FOUND
    stranger = Authority(tmp_path / "other").issue("caller").rpc()
    ca = {"FINERY_RPC_TLS_CA": str(authority.ca)}
    for settings in (stranger, stranger | ca, ca, {}):
        error = await get(address, settings)
        assert error.reason is Reason.SERVICE_UNAVAILABLE
        assert "Check FINERY_RPC_TLS_* of both" in error.message or "check FINERY_RPC_TLS_* of both" in error.message


async def test_certificates_of_a_name_serve_at_any_address(serve: Serve, authority: Authority) -> None:
    service = authority.issue("finery.internal").rpc()
    address = await serve(service)
    assert (await get(address, service)).reason is Reason.SERVICE_UNAVAILABLE
    named = service | {"FINERY_RPC_TLS_SERVER_NAME": "finery.internal"}
    assert (await get(address, named)).reason is Reason.JOB_NOT_FOUND


async def test_token_and_certificates_together(serve: Serve, authority: Authority) -> None:
    settings = authority.issue("127.0.0.1").rpc() | {"FINERY_RPC_TOKEN": TOKEN}
    address = await serve(settings)
    assert (await get(address, settings)).reason is Reason.JOB_NOT_FOUND
    assert (await get(address, authority.issue("caller").rpc())).reason is Reason.UNAUTHENTICATED
