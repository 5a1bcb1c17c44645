"""Tools through the OpenAI client: what arrives at the backend, and what comes back, whole and as a stream."""

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from finery.inference.v1 import inference_pb2 as pb
from tests.fakes.inference_service import FakeInference, Script

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "default": None}}, "required": ["city"]}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now", "strict": True}},
]
QUESTION: list[dict[str, Any]] = [{"role": "user", "content": "How is the weather in Paris, and what time is it?"}]
PIECES = (
    "Let me see.",
    pb.ToolCallDelta(index=0, id="call_a", name="weather", arguments='{"city": '),
    pb.ToolCallDelta(index=0, arguments='"Par\u2028is"}'),
    pb.ToolCallDelta(index=1, id="call_b", name="now", arguments="{}"),
)
CALLED = [("call_a", "weather", {"city": "Par\u2028is"}), ("call_b", "now", {})]


def calls_of(message: Any) -> list[tuple[str, str, Any]]:
    assert all(call.type == "function" for call in message.tool_calls)
    return [(call.id, call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls]


def calling(*pieces: Any) -> Any:
    return lambda request: Script(pieces=pieces, finish=pb.FINISH_REASON_TOOL_CALLS)


async def test_a_conversation_with_tools_arrives(client: AsyncOpenAI, fake: FakeInference) -> None:
    call = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    await client.chat.completions.create(
        model="toy",
        messages=[
            {"role": "system", "content": "Be short.", "name": "host"},
            {"role": "user", "content": "Weather?", "name": "Ann"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {
                "role": "tool",
                "content": [{"type": "text", "text": "Sunny"}],
                "tool_call_id": "call_a",
                "name": "weather",
            },
            {"role": "assistant", "tool_calls": [call | {"id": "call_b", "index": 0}]},
            {"role": "tool", "content": "", "tool_call_id": "call_b"},
        ],
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        extra_body={"chat_template_kwargs": {"enable_thinking": False, "style": {"words": 3}}},
    )
    made = {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert fake.requests[0].chat == pb.ChatPrompt(
        messages=[
            pb.ChatMessage(role=pb.CHAT_ROLE_SYSTEM, content="Be short.", name="host"),
            pb.ChatMessage(role=pb.CHAT_ROLE_USER, content="Weather?", name="Ann"),
            pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="call_a", **made)]),
            pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, content="Sunny", tool_call_id="call_a", name="weather"),
            pb.ChatMessage(role=pb.CHAT_ROLE_ASSISTANT, tool_calls=[pb.ToolCall(id="call_b", **made)]),
            pb.ChatMessage(role=pb.CHAT_ROLE_TOOL, tool_call_id="call_b"),
        ],
        tools=[
            pb.Tool(
                name="weather", description="Tells the weather.", parameters=json.dumps(SCHEMA, separators=(",", ":"))
            ),
            pb.Tool(name="now", strict=True),
        ],
        tool_choice=pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_REQUIRED),
        parallel_tool_calls=False,
        template_kwargs={"enable_thinking": "false", "style": '{"words":3}'},
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("none", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_NONE)),
        ("auto", pb.ToolChoice(mode=pb.TOOL_CHOICE_MODE_AUTO)),
        ({"type": "function", "function": {"name": "now"}}, pb.ToolChoice(function="now")),
    ],
)
async def test_choices(client: AsyncOpenAI, fake: FakeInference, choice: Any, expected: pb.ToolChoice) -> None:
    await client.chat.completions.create(model="toy", messages=QUESTION, tools=TOOLS, tool_choice=choice)
    assert fake.requests[0].chat.tool_choice == expected


async def test_a_choice_without_tools_asks_for_nothing(client: AsyncOpenAI, fake: FakeInference) -> None:
    await client.chat.completions.create(
        model="toy", messages=QUESTION, tools=[], tool_choice="none", parallel_tool_calls=False
    )
    assert not fake.requests[0].chat.HasField("tool_choice")
    assert not fake.requests[0].chat.HasField("parallel_tool_calls")


async def test_whole_answer(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = calling(*PIECES)
    [choice] = (await client.chat.completions.create(model="toy", messages=QUESTION, tools=TOOLS)).choices
    assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
    assert calls_of(choice.message) == CALLED


async def test_content_is_null_when_there_is_only_a_call(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = calling(*PIECES[1:])
    answer = await client.chat.completions.create(model="toy", messages=QUESTION, tools=TOOLS, n=2)
    for choice in answer.choices:
        assert choice.message.content is None
        assert calls_of(choice.message) == CALLED


async def test_an_answer_without_calls_has_none(http: httpx.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json={"model": "toy", "messages": QUESTION, "tools": TOOLS})
    assert response.json()["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello, world",
        "refusal": None,
    }


async def test_stream_says_id_and_name_once_and_content_always(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = calling(*PIECES)
    stream = await client.chat.completions.create(model="toy", messages=QUESTION, tools=TOOLS, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    assert [choice.delta.content for choice in choices] == ["", "Let me see.", "", "", "", ""]
    assert [choice.finish_reason for choice in choices] == [None] * 5 + ["tool_calls"]
    assert [[c.model_dump(exclude_unset=True) for c in choice.delta.tool_calls or ()] for choice in choices] == [
        [],
        [],
        [
            {
                "index": 0,
                "id": "call_a",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": '},
            }
        ],
        [{"index": 0, "function": {"arguments": '"Par\u2028is"}'}}],
        [{"index": 1, "id": "call_b", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
        [],
    ]


async def test_the_clients_stream_helper_puts_calls_together(client: AsyncOpenAI, fake: FakeInference) -> None:
    fake.script = calling(*PIECES)
    events: list[str] = []
    async with client.chat.completions.stream(model="toy", messages=QUESTION, tools=TOOLS, n=2) as stream:
        async for event in stream:
            events.append(event.type)
        final = await stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in events
    assert events.count("tool_calls.function.arguments.done") == 4
    for choice in final.choices:
        assert (choice.message.content, choice.finish_reason) == ("Let me see.", "tool_calls")
        assert calls_of(choice.message) == CALLED


async def test_the_answer_goes_back_as_it_came(client: AsyncOpenAI, fake: FakeInference) -> None:
    """An agent's loop: the message is appended, the tools' answers after it."""
    fake.script = calling(*PIECES[1:])
    message = (await client.chat.completions.create(model="toy", messages=QUESTION, tools=TOOLS)).choices[0].message
    fake.script = lambda request: Script()
    answers = [{"role": "tool", "tool_call_id": call.id, "content": "x"} for call in message.tool_calls]
    again = await client.chat.completions.create(model="toy", messages=[*QUESTION, message, *answers], tools=TOOLS)
    assert again.choices[0].message.content == "Hello, world"
    assert [call.id for call in fake.requests[1].chat.messages[1].tool_calls] == ["call_a", "call_b"]


async def test_tokenize_takes_tools_and_variables(http: httpx.AsyncClient, fake: FakeInference) -> None:
    body = {"model": "toy", "messages": QUESTION, "tools": TOOLS[1:], "chat_template_kwargs": {"enable_thinking": True}}
    assert (await http.post("/tokenize", json=body)).status_code == 200
    [asked] = fake.tokenized
    assert list(asked.chat.tools) == [pb.Tool(name="now", strict=True)]
    assert asked.chat.template_kwargs == {"enable_thinking": "true"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "x", "tools": TOOLS}, "tools"),
        ({"prompt": "x", "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs"),
        ({"messages": QUESTION, "chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize"),
        ({"messages": QUESTION, "tools": [TOOLS[0], TOOLS[0]]}, "tools[1].function.name"),
    ],
)
async def test_tokenize_refuses(lone_http: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await lone_http.post("/tokenize", json={"model": "toy"} | body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
