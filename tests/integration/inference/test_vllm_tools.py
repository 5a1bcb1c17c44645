"""Required and named calls on the real vLLM: random weights, yet every call is one, by its schema."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import inference_pb2 as i
from finery_shared.errors import FineryError, Reason
from finery_shared.rpc import from_rpc_error
from tests.fakes.tiny_qwen import ANSWER, write_tiny_qwen
from tests.integration.inference.service import Client, Services, connect
from tests.unit.shared.templates.family_templates import QWEN2_5

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOOK = {
    "type": "object",
    "properties": {"room": {"enum": ["red", "blue"]}, "nights": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["room", "nights"],
    "additionalProperties": False,
}
TOOLS = [
    i.Tool(name="book", description="Books a room.", parameters=json.dumps(BOOK), strict=True),
    i.Tool(name="now"),
]
REQUIRED = i.ToolChoice(mode=i.TOOL_CHOICE_MODE_REQUIRED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    home = tmp_path_factory.mktemp("tools")
    services = Services(home)
    model = write_tiny_qwen(home / "tiny-qwen", chat_template=QWEN2_5)
    try:
        async with connect(services.start("vllm")) as client:
            await client.create(model, max_model_len=1024)
            await client.until(d.DEPLOYMENT_STATE_READY)
            yield client
    finally:
        services.stop()


async def ask(client: Client, n: int = 1, max_tokens: int = 400, **chat: Any) -> tuple[list[Any], list[str], Any]:
    """The calls and the text of each answer, and the end."""
    prompt = i.ChatPrompt(messages=[i.ChatMessage(role=i.CHAT_ROLE_USER, content="Book a room.")], tools=TOOLS, **chat)
    sampling = i.SamplingParams(n=n, max_tokens=max_tokens, seed=7, temperature=1.0 if n > 1 else 0.0)
    calls: list[list[tuple[str, str]]] = [[] for _ in range(n)]
    texts = [""] * n
    async for event in client.inference.Generate(i.GenerateRequest(model="m", chat=prompt, sampling=sampling)):
        texts[event.chunk.index] += event.chunk.text
        for call in event.chunk.tool_calls:
            if call.name:
                assert call.id.startswith("call_")
                calls[event.chunk.index].append((call.name, ""))
            name, arguments = calls[event.chunk.index][call.index]
            calls[event.chunk.index][call.index] = (name, arguments + call.arguments)
    return calls, texts, event.complete


def check(name: str, arguments: str) -> None:
    values = json.loads(arguments)
    if name == "now":
        assert values == {}
    else:
        assert name == "book"
        assert set(values) == {"room", "nights"}
        assert values["room"] in ("red", "blue")
        assert values["nights"] in range(1, 10)


async def test_a_named_call(client: Client) -> None:
    [[(name, arguments)]], [text], complete = await ask(client, tool_choice=i.ToolChoice(function="book"))
    assert (name, text) == ("book", "")
    check(name, arguments)
    assert complete.finishes[0].finish_reason == i.FINISH_REASON_TOOL_CALLS


async def test_required_calls_of_several_answers(client: Client) -> None:
    answers, texts, complete = await ask(client, n=4, tool_choice=REQUIRED, parallel_tool_calls=False)
    assert texts == [""] * 4
    for [(name, arguments)] in answers:
        check(name, arguments)
    assert {finish.finish_reason for finish in complete.finishes} == {i.FINISH_REASON_TOOL_CALLS}


async def test_required_calls_may_be_several(client: Client) -> None:
    [calls], [text], complete = await ask(client, tool_choice=REQUIRED)
    assert text == ""
    cut_off = complete.finishes[0].finish_reason == i.FINISH_REASON_LENGTH
    assert len(calls) >= 1
    for name, arguments in calls[: -1 if cut_off else None]:
        check(name, arguments)


@pytest.mark.parametrize("choice", [i.TOOL_CHOICE_MODE_AUTO, i.TOOL_CHOICE_MODE_NONE])
async def test_a_model_that_calls_nothing_answers(client: Client, choice: Any) -> None:
    [calls], [text], complete = await ask(client, tool_choice=i.ToolChoice(mode=choice))
    assert (calls, text) == ([], ANSWER)
    assert complete.finishes[0].finish_reason == i.FINISH_REASON_STOP


async def test_a_schema_that_the_engine_can_not_follow_is_told(client: Client) -> None:
    tools = [i.Tool(name="f", parameters='{"type": "object", "properties": {"x": {"type": "none"}}}', strict=True)]
    chat = {"messages": [{"role": i.CHAT_ROLE_USER, "content": "x"}], "tools": tools}
    call = client.inference.Generate(i.GenerateRequest(model="m", chat=chat))
    with pytest.raises(FineryError) as refusal:
        try:
            async for _ in call:
                pass
        except Exception as error:
            raise from_rpc_error(error, "the service") from error  # type: ignore[arg-type]
    assert refusal.value.reason is Reason.INVALID_ARGUMENT
    assert refusal.value.metadata["field"] == "tools"
