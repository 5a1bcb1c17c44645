"""Which backend a request goes to, and what is said when none can take it."""

import asyncio
from contextlib import AsyncExitStack

import httpx
from openai import AsyncOpenAI

from finery.inference.v1 import deployments_pb2 as pb
from finery.inference.v1 import inference_pb2
from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script, deployment
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"


def body(model: str = "toy", stream: bool = False) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}


async def start_fake(stack: AsyncExitStack, *models: str) -> FakeInference:
    fake = FakeInference(models)
    await fake.start()
    stack.push_async_callback(fake.stop)
    return fake


async def models_of(http: httpx.AsyncClient) -> list[str]:
    return [m["id"] for m in (await http.get("/v1/models")).json()["data"]]


async def until_models(http: httpx.AsyncClient, *models: str) -> None:
    async with asyncio.timeout(10):
        while await models_of(http) != list(models):
            await asyncio.sleep(0.02)


async def test_models_of_all_backends_oldest_first(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "org/b", "shared"), await start_fake(stack, "a", "shared")
    one.set_deployments(deployment("org/b", created=2), deployment("shared", created=4))
    two.set_deployments(deployment("a", created=3), deployment("shared", created=1))
    async with AsyncOpenAI(base_url=f"{await start_gateway(one, two)}/v1", api_key="EMPTY") as client:
        models = (await client.models.list()).data
        assert [m.id for m in models] == ["shared", "org/b", "a"]
        assert models[0].created == 1_700_000_001
        assert (models[0].object, models[0].owned_by) == ("model", "finery")
        assert (await client.models.retrieve("org/b")).id == "org/b"
    assert (await httpx_get(start_gateway, one, "/v1/models/org%2Fb")).json()["max_model_len"] == 4096


async def httpx_get(start_gateway: Start, fake: FakeInference, path: str) -> httpx.Response:
    async with httpx.AsyncClient(base_url=await start_gateway(fake)) as http:
        return await http.get(path)


async def test_least_work_in_flight(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    for fake in (one, two):
        fake.script = lambda request: Script(first_delay=0.5)
    async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
        answers = [asyncio.create_task(http.post(CHAT, json=body())) for _ in range(10)]
        await until(lambda: one.running + two.running == 10)
        assert (one.running, two.running) == (5, 5)
        assert {(await a).status_code for a in answers} == {200}


async def test_equal_backends_take_turns(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = [await start_fake(stack, "toy") for _ in range(3)]
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes)) as http:
        for _ in range(9):
            await http.post(CHAT, json=body())
    assert [len(f.requests) for f in fakes] == [3, 3, 3]


async def test_only_who_has_the_model(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "a"), await start_fake(stack, "b")
    async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
        for _ in range(4):
            assert (await http.post(CHAT, json=body("b"))).status_code == 200
    assert (len(one.requests), len(two.requests)) == (0, 4)


async def test_new_deployment_needs_no_restart(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.set_deployments(deployment("toy"), deployment("late", created=2))
    await until_models(http, "toy", "late")
    assert (await http.post(CHAT, json=body("late"))).status_code == 200
    fake.set_deployments(deployment("late"))
    await until_models(http, "late")
    assert (await http.post(CHAT, json=body("toy"))).json()["error"]["code"] == "model_not_found"


async def test_states_that_do_not_serve(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.set_deployments(
        deployment("loading", pb.DEPLOYMENT_STATE_LOADING),
        deployment("failed", pb.DEPLOYMENT_STATE_FAILED, error="out of memory. Lower max_model_len."),
        deployment("leaving", pb.DEPLOYMENT_STATE_UNLOADING),
    )
    await until_models(http)
    answers = {m: await http.post(CHAT, json=body(m)) for m in ("loading", "failed", "leaving", "absent")}
    errors = {m: (a.status_code, a.json()["error"]["code"]) for m, a in answers.items()}
    assert errors == {
        "loading": (503, "model_not_ready"),
        "failed": (503, "engine_unavailable"),
        "leaving": (404, "model_not_found"),
        "absent": (404, "model_not_found"),
    }
    assert "out of memory. Lower max_model_len." in answers["failed"].text
    assert answers["loading"].headers["retry-after"] == "2"
    assert "finery deploy" in answers["absent"].text
    ready = await http.get("/ready")
    assert ready.status_code == 503
    assert "still loading" in ready.json()["reason"]


async def test_failed_deployment_is_served_elsewhere(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    one.set_deployments(deployment("toy", pb.DEPLOYMENT_STATE_FAILED, error="dead"))
    async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
        assert {(await http.post(CHAT, json=body())).status_code for _ in range(6)} == {200}
    assert (len(one.requests), len(two.requests)) == (0, 6)


async def test_draining_backend_is_left_out_and_its_streams_finish(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    for fake in (one, two):
        fake.script = lambda request: Script(pieces=["x"] * 5, delay=0.1)
    async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
        answers = [asyncio.create_task(http.post(CHAT, json=body())) for _ in range(2)]
        await until(lambda: one.running == two.running == 1)
        one.set_deployments(deployment("toy"), draining=True)
        await asyncio.sleep(0.1)
        assert {(await http.post(CHAT, json=body())).status_code for _ in range(3)} == {200}
        assert {(await a).status_code for a in answers} == {200}
        assert (len(one.requests), len(two.requests)) == (1, 4)
        two.set_deployments(deployment("toy"), draining=True)
        await until_models(http)
        refused = await http.post(CHAT, json=body())
    assert refused.status_code == 503
    assert "is shutting down" in refused.json()["error"]["message"]


async def test_another_backend_is_tried_before_the_first_token(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    for reason in (Reason.ENGINE_DEAD, Reason.QUEUE_FULL, Reason.MODEL_NOT_FOUND, Reason.SERVICE_UNAVAILABLE):
        failure = FineryError(reason, "Not here.")
        one.script = lambda request, failure=failure: Script(failure=failure)
        refused_before = len(one.requests)
        async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
            for stream in (False, True):
                for _ in range(2):
                    assert "world" in (await http.post(CHAT, json=body(stream=stream))).text
        # How many of the four go there first depends on when the one before counts as ended.
        assert len(one.requests) > refused_before


async def test_a_request_that_is_wrong_is_not_tried_again(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    for fake in (one, two):
        fake.script = lambda request: Script(failure=FineryError(Reason.CONTEXT_LENGTH_EXCEEDED, "Too long."))
    async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
        assert (await http.post(CHAT, json=body())).status_code == 400
    assert len(one.requests) + len(two.requests) == 1


async def test_whole_answers_move_in_midway_streams_do_not(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    broken = [one, two]

    def script_of(fake: FakeInference):
        def script(request: inference_pb2.GenerateRequest) -> Script:
            if fake in broken:
                broken.clear()
                return Script(failure=FineryError(Reason.ENGINE_DEAD, "It died."), fails_after=2)
            return Script()

        return script

    for fake in (one, two):
        fake.script = script_of(fake)
    async with httpx.AsyncClient(base_url=await start_gateway(one, two)) as http:
        whole = await http.post(CHAT, json=body())
        broken += [one, two]
        stream = await http.post(CHAT, json=body(stream=True))
    assert whole.json()["choices"][0]["message"]["content"] == "Hello, world"
    assert stream.text.endswith('"code":"engine_unavailable"}}\n\n')


async def test_of_several_prompts_the_one_that_fails_moves(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = [await start_fake(stack, "toy"), await start_fake(stack, "toy")]
    asked: list[str] = []

    def script(request: inference_pb2.GenerateRequest) -> Script:
        asked.append(request.text.text)
        pieces = (f"<{request.text.text}", ">")
        if asked.count("b") == 1 and asked[-1] == "b":
            return Script(pieces, failure=FineryError(Reason.ENGINE_DEAD, "It died."), fails_after=1)
        return Script(pieces, delay=0.2)

    for fake in fakes:
        fake.script = script
    prompts = {"model": "toy", "prompt": ["a", "b", "c"], "n": 2}
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes)) as http:
        whole = await http.post("/v1/completions", json=prompts)
        assert [choice["text"] for choice in whole.json()["choices"]] == ["<a>", "<a>", "<b>", "<b>", "<c>", "<c>"]
        assert sorted(asked) == ["a", "b", "b", "c"]
        asked.clear()
        stream = await http.post("/v1/completions", json=prompts | {"stream": True})
        assert stream.text.endswith('"code":"engine_unavailable"}}\n\n')


async def test_nobody_there(start_gateway: Start, stack: AsyncExitStack) -> None:
    fake = await start_fake(stack, "toy")
    await fake.stop()
    async with httpx.AsyncClient(base_url=await start_gateway(fake)) as http:
        answer = await http.post(CHAT, json=body())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert fake.address in answer.json()["error"]["message"]
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/health")).json() == {"status": "alive"}
        assert await models_of(http) == []


async def test_backend_that_comes_back_is_found_again(start_gateway: Start, stack: AsyncExitStack) -> None:
    first = await start_fake(stack, "toy")
    async with httpx.AsyncClient(base_url=await start_gateway(first)) as http:
        assert (await http.get("/ready")).json() == {"status": "ready", "models": ["toy"]}
        await first.stop()
        await until_models(http)
        gone = await http.post(CHAT, json=body())
        assert (gone.status_code, gone.json()["error"]["code"]) == (503, "service_unavailable")
        second = FakeInference(["toy"], listen=first.address)
        await second.start()
        stack.push_async_callback(second.stop)
        await until_models(http, "toy")
        assert (await http.post(CHAT, json=body())).status_code == 200


async def test_silent_backend_is_the_last_resort(start_gateway: Start, stack: AsyncExitStack) -> None:
    one, two = await start_fake(stack, "toy"), await start_fake(stack, "toy")
    async with httpx.AsyncClient(base_url=await start_gateway(one, two, stale_seconds=0.6)) as http:
        one.silent = True
        await asyncio.sleep(0.9)
        assert {(await http.post(CHAT, json=body())).status_code for _ in range(4)} == {200}
        assert len(one.requests) == 0
        await two.stop()
        assert {(await http.post(CHAT, json=body())).status_code for _ in range(4)} == {200}
        assert len(one.requests) == 4


async def test_silence_for_long_ends_the_requests_there(start_gateway: Start, stack: AsyncExitStack) -> None:
    fake = await start_fake(stack, "toy")
    fake.script = lambda request: Script(first_delay=60)
    async with httpx.AsyncClient(base_url=await start_gateway(fake, lost_seconds=0.6), timeout=20) as http:
        waiting = asyncio.create_task(http.post(CHAT, json=body(stream=True)))
        await until(lambda: fake.running == 1)
        fake.silent = True
        answer = await waiting
    assert answer.status_code == 503
    assert "has stopped answering" in answer.json()["error"]["message"]
    await until(lambda: fake.cancelled == 1)


async def test_watch_that_ends_in_any_way_begins_again(http: httpx.AsyncClient, fake: FakeInference) -> None:
    for reason in (Reason.CANCELLED, Reason.INTERNAL, Reason.UNSUPPORTED):
        fake.watch_failure = FineryError(reason, "No more.")
        await until_models(http)
        fake.watch_failure = None
        await until_models(http, "toy")


async def test_generation_that_its_server_cancels_is_an_error(http: httpx.AsyncClient, fake: FakeInference) -> None:
    fake.script = lambda request: Script(failure=FineryError(Reason.CANCELLED, "No more."), fails_after=1)
    for stream in (False, True):
        answer = await http.post(CHAT, json=body(stream=stream))
        assert answer.status_code == (200 if stream else 503)
        assert "has stopped answering" in answer.text
