"""A gateway on a loopback port in the test's own event loop, over real gRPC servers that answer by script."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import httpx
import pytest
from openai import AsyncOpenAI

from finery_gateway.app import Access, Limits, create_app
from finery_gateway.bootstrap import build
from finery_gateway.health import Readiness
from finery_gateway.metrics import GatewayMetrics
from finery_gateway.routing.names import Addresses
from finery_gateway.routing.router import Router, RouterTimes
from finery_gateway.settings import Settings
from finery_shared.log import logger
from finery_shared.rpc import open_channel
from tests.fakes.inference_service import FakeInference

Start = Callable[..., Awaitable[str]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def fake(stack: AsyncExitStack) -> FakeInference:
    fake = FakeInference()
    await fake.start()
    stack.push_async_callback(fake.stop)
    return fake


@pytest.fixture
async def start_gateway(stack: AsyncExitStack) -> Start:
    """Starts a gateway over some fakes; returns its base URL."""

    async def start(*fakes: FakeInference, **settings: object) -> str:
        defaults = {"listen": "127.0.0.1:0", "drain_seconds": 2, "inference": tuple(f.address for f in fakes)}
        process = build(Settings(**(defaults | settings)))
        stack.push_async_callback(process.stop)
        address = await process.start()
        return address if "://" in address else f"http://{address}"

    return start


@pytest.fixture
async def url(start_gateway: Start, fake: FakeInference) -> str:
    return await start_gateway(fake)


@pytest.fixture
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture
async def lone_http() -> AsyncIterator[httpx.AsyncClient]:
    """The application without a server, over a backend that is not there: for what it answers by itself."""
    router = Router(Addresses(["127.0.0.1:1"]), open_channel, logger("test"), RouterTimes())
    app = create_app(router, logger("test"), Access(), Limits(), Readiness(router.table), GatewayMetrics(router.table))
    async with httpx.AsyncClient(base_url="http://gateway", transport=httpx.ASGITransport(app)) as client:
        yield client
    await router.stop()


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY", max_retries=0, timeout=20) as client:
        yield client
