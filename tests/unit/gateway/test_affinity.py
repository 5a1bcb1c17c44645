"""Requests that begin alike go where their beginning was computed, unless too many do."""

import asyncio
from contextlib import AsyncExitStack

import httpx
import pytest

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.routing.affinity import PrefixAffinity, prefix_keys
from finery_gateway.routing.backend import Backend
from finery_shared.rpc import open_channel
from tests.fakes.inference_service import FakeInference, Script
from tests.unit.gateway.conftest import Start
from tests.unit.gateway.waiting import until

CHAT = "/v1/chat/completions"
SYSTEM = "You answer questions about the history of iron making. " * 40


def turns(*contents: str, model: str = "toy") -> dict[str, object]:
    """A conversation: a system prompt, then user and assistant by turns."""
    roles = ["system"] + ["user", "assistant"] * len(contents)
    return {"model": model, "messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


async def start_fakes(stack: AsyncExitStack, count: int) -> list[FakeInference]:
    fakes = [FakeInference(["toy", "other"]) for _ in range(count)]
    for fake in fakes:
        await fake.start()
        stack.push_async_callback(fake.stop)
    return fakes


def counts(fakes: list[FakeInference]) -> list[int]:
    return [len(f.requests) for f in fakes]


@pytest.fixture
async def backends(stack: AsyncExitStack) -> list[Backend]:
    """Three that are never called."""
    made = [Backend(f"127.0.0.1:{i}", open_channel(f"127.0.0.1:{i}"), lambda: 0.0) for i in (1, 2, 3)]
    for backend in made:
        stack.push_async_callback(backend.close)
    return made


async def test_each_conversation_stays_where_it_began(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = await start_fakes(stack, 3)
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes)) as http:
        talks = [[f"Conversation {i}. " * 60] for i in range(6)]
        for round_ in range(4):
            for talk in talks:
                talk.append(f"Question {round_}?")
                await http.post(CHAT, json=turns(*talk))
                talk.append("Answer. " * 20)
    homes = [{f.address for f in fakes for r in f.requests if r.chat.messages[0].content == t[0]} for t in talks]
    assert [len(home) for home in homes] == [1] * 6
    assert set.union(*homes) == {f.address for f in fakes}


async def test_same_system_prompt_goes_to_the_same_backend(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = await start_fakes(stack, 3)
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes)) as http:
        for i in range(9):
            await http.post(CHAT, json=turns(SYSTEM, f"Question {i}"))
    assert sorted(counts(fakes)) == [0, 0, 9]


async def test_many_at_once_are_spread(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = await start_fakes(stack, 2)
    for fake in fakes:
        fake.script = lambda request: Script(first_delay=0.5)
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes)) as http:
        answers = [asyncio.create_task(http.post(CHAT, json=turns(SYSTEM, f"Question {i}"))) for i in range(40)]
        await until(lambda: sum(f.running for f in fakes) == 40)
        busy = sorted(f.running for f in fakes)
        assert {(await a).status_code for a in answers} == {200}
    assert busy[1] - busy[0] <= 6


async def test_a_backend_that_left_is_forgotten(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = await start_fakes(stack, 3)
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes)) as http:
        await http.post(CHAT, json=turns(SYSTEM, "One"))
        home = next(f for f in fakes if f.requests)
        home.set_deployments()
        answers = [await http.post(CHAT, json=turns(SYSTEM, f"Question {i}")) for i in range(6)]
    assert {a.status_code for a in answers} == {200}
    # The home may be asked once before its news is heard; all others go to one of the two that stayed.
    stayed = sorted(len(f.requests) for f in fakes if f is not home)
    assert stayed[0] == 0 and stayed[1] >= 5


async def test_a_silent_backend_is_not_preferred(start_gateway: Start, stack: AsyncExitStack) -> None:
    fakes = await start_fakes(stack, 2)
    async with httpx.AsyncClient(base_url=await start_gateway(*fakes, stale_seconds=0.6)) as http:
        await http.post(CHAT, json=turns(SYSTEM, "One"))
        home = next(f for f in fakes if f.requests)
        home.silent = True
        await asyncio.sleep(0.9)
        await http.post(CHAT, json=turns(SYSTEM, "Two"))
    assert counts(fakes) == [1, 1]


def test_keys_of_prompts_that_begin_alike() -> None:
    def chat(*contents: str, model: str = "toy", tools: tuple[str, ...] = ()) -> list[int]:
        messages = [pb.ChatMessage(role=pb.CHAT_ROLE_USER, content=c) for c in contents]
        prompt = pb.ChatPrompt(messages=messages, tools=[pb.Tool(name="t", parameters=t) for t in tools])
        return prefix_keys(pb.GenerateRequest(model=model, chat=prompt))

    first, longer = chat(SYSTEM, "a"), chat(SYSTEM, "a", "b" * 1000)
    assert first and longer[: len(first)] == first and len(longer) > len(first)
    # A long message that ends in another question shares its beginning, too.
    assert chat(SYSTEM + "Who?")[:5] == chat(SYSTEM + "And when was that?")[:5]
    assert not set(first) & set(chat("x" + SYSTEM, "a"))
    assert not set(first) & set(chat(SYSTEM, "a", model="adapter"))
    assert not set(first) & set(chat(SYSTEM, "a", tools=('{"type": "object"}',)))
    assert chat("hi") == []
    assert len(chat("x" * 10_000_000)) < 25


def test_keys_of_texts_and_token_ids() -> None:
    def text(content: str) -> list[int]:
        return prefix_keys(pb.GenerateRequest(model="toy", text=pb.TextPrompt(text=content)))

    def ids(*values: int) -> list[int]:
        return prefix_keys(pb.GenerateRequest(model="toy", token_ids=pb.TokenIdsPrompt(token_ids=values)))

    assert text(SYSTEM + "a" * 900)[:8] == text(SYSTEM + "b")[:8] != []
    assert ids(*range(300), 7, 8)[:5] == ids(*range(300))[:5] != []
    assert text("short") == ids(1, 2) == []


async def test_longest_known_prefix_wins(backends: list[Backend]) -> None:
    affinity = PrefixAffinity()
    assert affinity.prefer([1, 2, 3], backends) is None
    affinity.note([1, 2, 3], backends[2])
    affinity.note([1, 5], backends[0])
    assert affinity.prefer([1, 2, 9], backends) is backends[2]
    assert affinity.prefer([1, 8], backends) is backends[0]
    assert affinity.prefer([8], backends) is None
    assert affinity.prefer([], backends) is None
    # Without the one that has most of it, the next best.
    assert affinity.prefer([1, 2, 9], backends[:2]) is backends[0]


async def test_memory_is_bounded_and_what_is_used_stays(backends: list[Backend]) -> None:
    affinity = PrefixAffinity(capacity=100)
    for i in range(1000):
        affinity.note([-2, i], backends[i % 2])
    assert len(affinity) == 100
    assert affinity.prefer([-2], backends) is backends[1]
    assert affinity.prefer([850], backends) is None
    assert affinity.prefer([-3, 998], backends) is backends[0]
