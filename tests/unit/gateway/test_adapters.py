"""Adapters as models of their own: routed to where their base is, listed after it, refused for what they are."""

from contextlib import AsyncExitStack

import httpx
import pytest
from openai import AsyncOpenAI

from finery.inference.v1 import deployments_pb2 as pb
from tests.fakes.inference_service import FakeInference, adapter, deployment
from tests.unit.gateway.conftest import Start

CHAT = "/v1/chat/completions"


def body(model: str) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


def with_adapters(model: str, *adapters: pb.Adapter, created: int = 1) -> pb.Deployment:
    item = deployment(model, created=created)
    item.adapters.extend(adapters)
    return item


async def backend(stack: AsyncExitStack, *items: pb.Deployment) -> FakeInference:
    fake = FakeInference()
    await fake.start()
    stack.push_async_callback(fake.stop)
    fake.set_deployments(*items)
    return fake


async def test_bases_stand_before_their_adapters_in_order_of_creation(
    start_gateway: Start, stack: AsyncExitStack
) -> None:
    one = await backend(stack, with_adapters("z", adapter("a", created=1), adapter("toy:x", created=5)))
    two = await backend(stack, with_adapters("b", adapter("c", created=4), created=3))
    url = await start_gateway(one, two)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="EMPTY") as client:
        models = (await client.models.list()).data
        assert [model.id for model in models] == ["z", "a", "b", "c", "toy:x"]
        found = (await client.models.retrieve("toy:x")).model_dump()
        assert (found["parent"], found["root"], found["max_model_len"]) == ("z", "/output/toy:x", 4096)
        base = (await client.models.retrieve("z")).model_dump()
        assert (base["parent"], base["root"]) == (None, "toy-chat")


async def test_a_request_for_an_adapter_goes_to_who_has_it(start_gateway: Start, stack: AsyncExitStack) -> None:
    plain = await backend(stack, with_adapters("toy"))
    tuned = await backend(stack, with_adapters("toy", adapter("toy:x")))
    async with httpx.AsyncClient(base_url=await start_gateway(plain, tuned)) as http:
        answers = [await http.post(CHAT, json=body("toy:x")) for _ in range(3)]
        base = await http.post(CHAT, json=body("toy"))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["model"] for answer in answers} == {"toy:x"}
    assert [request.model for request in tuned.requests if request.model != "toy"] == ["toy:x"] * 3
    assert all(request.model == "toy" for request in plain.requests)
    assert answers[0].json()["system_fingerprint"] != base.json()["system_fingerprint"]


@pytest.mark.parametrize(
    ("state", "error", "code", "said"),
    [
        (pb.DEPLOYMENT_STATE_LOADING, "", "model_not_ready", "still loading"),
        (pb.DEPLOYMENT_STATE_FAILED, "a file is damaged", "engine_unavailable", "a file is damaged"),
    ],
)
async def test_an_adapter_that_can_not_be_asked(
    start_gateway: Start,
    stack: AsyncExitStack,
    state: pb.DeploymentState.ValueType,
    error: str,
    code: str,
    said: str,
) -> None:
    fake = await backend(stack, with_adapters("toy", adapter("toy:x", state, error=error)))
    async with httpx.AsyncClient(base_url=await start_gateway(fake)) as http:
        refused = await http.post(CHAT, json=body("toy:x"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, code)
        assert "`toy:x`" in refused.json()["error"]["message"]
        assert said in refused.json()["error"]["message"]
        assert (await http.get("/v1/models/toy:x")).status_code == 503
        assert (await http.post(CHAT, json=body("toy"))).status_code == 200


async def test_an_adapter_comes_and_goes_without_a_restart(start_gateway: Start, stack: AsyncExitStack) -> None:
    fake = await backend(stack, with_adapters("toy"))
    async with httpx.AsyncClient(base_url=await start_gateway(fake)) as http:
        missing = await http.post(CHAT, json=body("toy:x"))
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        fake.set_deployments(with_adapters("toy", adapter("toy:x")))
        await until_status(http, "toy:x", 200)
        fake.set_deployments(with_adapters("toy"))
        await until_status(http, "toy:x", 404)


async def until_status(http: httpx.AsyncClient, model: str, status: int) -> None:
    for _ in range(200):
        if (await http.post(CHAT, json=body(model))).status_code == status:
            return
    raise AssertionError(f"{model} never answered {status}")
