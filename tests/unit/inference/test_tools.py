"""Tools through the service: a fake engine says what the user said last, and the service reads calls in it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from finery.inference.v1 import inference_pb2 as i
from finery_inference.engines.fake import FakePace
from finery_shared.errors import Reason
from tests.fakes.toy_model import TOOL_CHATML, write_model
from tests.unit.inference.harness import Harness, refusal

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [i.Tool(name="weather", description="Tells it.", parameters=json.dumps(SCHEMA)), i.Tool(name="now")]
WEATHER = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
NONE = i.ToolChoice(mode=i.TOOL_CHOICE_MODE_NONE)
REQUIRED = i.ToolChoice(mode=i.TOOL_CHOICE_MODE_REQUIRED)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """A process whose engine echoes, with a model that has tools and one that has none."""
    running = Harness(tmp_path, FakePace(echo=True))
    await running.start()
    await running.deploy(write_model(tmp_path / "tools-chat", TOOL_CHATML))
    await running.deploy(write_model(tmp_path / "toy-chat"), "plain")
    yield running
    await running.stop()


def request(text: str, model: str = "m", sampling: Any = None, **chat: Any) -> i.GenerateRequest:
    messages = [i.ChatMessage(role=i.CHAT_ROLE_USER, content=text)]
    prompt = i.ChatPrompt(**({"messages": messages, "tools": TOOLS} | chat))
    return i.GenerateRequest(model=model, chat=prompt, sampling=sampling)


async def ask(harness: Harness, asked: i.GenerateRequest) -> tuple[list[str], list[list[tuple[str, str]]], Any]:
    """Texts and calls by answer, and the end."""
    events = [event async for event in harness.inference.Generate(asked)]
    complete = events.pop().complete
    texts = [""] * len(complete.finishes)
    calls: list[list[tuple[str, str]]] = [[] for _ in texts]
    ids = []
    for chunk in (event.chunk for event in events):
        texts[chunk.index] += chunk.text
        of_answer = calls[chunk.index]
        for delta in chunk.tool_calls:
            if delta.name:
                ids.append(delta.id)
                of_answer.append((delta.name, ""))
            else:
                assert not delta.id
            assert delta.index == len(of_answer) - 1
            of_answer[-1] = (of_answer[-1][0], of_answer[-1][1] + delta.arguments)
    assert len(set(ids)) == len(ids) and all(id.startswith("call_") for id in ids)
    return texts, calls, complete


CALLED = [("weather", '{"city": "Zürich"}')]


async def test_calls_are_read_in_each_answer(harness: Harness) -> None:
    texts, calls, complete = await ask(harness, request(f"Well.\n{WEATHER}", sampling=i.SamplingParams(n=3)))
    assert texts == ["Well."] * 3
    assert calls == [CALLED] * 3
    assert [finish.finish_reason for finish in complete.finishes] == [i.FINISH_REASON_TOOL_CALLS] * 3


async def test_arguments_stream(harness: Harness) -> None:
    deltas = [delta async for event in harness.inference.Generate(request(WEATHER)) for delta in event.chunk.tool_calls]
    assert len(deltas) == len(CALLED[0][1])


async def test_text_is_text(harness: Harness) -> None:
    malformed = "<tool_call>\nno\n</tool_call>"
    for text in ("Hello", malformed):
        texts, calls, complete = await ask(harness, request(text))
        assert (texts, calls) == ([text], [[]])
        assert complete.finishes[0].finish_reason == i.FINISH_REASON_STOP


async def test_one_call_where_one_is_wanted(harness: Harness) -> None:
    both = f"{WEATHER}\n{NOW}"
    assert (await ask(harness, request(both)))[1] == [[*CALLED, ("now", "{}")]]
    assert (await ask(harness, request(both, parallel_tool_calls=False)))[1] == [CALLED]


async def test_a_call_that_is_cut_off_ends_by_length(harness: Harness) -> None:
    asked = request(WEATHER, sampling=i.SamplingParams(max_tokens=55))
    texts, [[(name, arguments)]], complete = await ask(harness, asked)
    assert (texts, name) == ([""], "weather")
    assert CALLED[0][1].startswith(arguments)
    assert complete.finishes[0].finish_reason == i.FINISH_REASON_LENGTH


async def test_none_tells_the_model_of_no_tools_and_reads_no_calls(harness: Harness) -> None:
    texts, calls, complete = await ask(harness, request(WEATHER, tool_choice=NONE))
    assert (texts, calls) == ([WEATHER], [[]])
    without = (await ask(harness, request(WEATHER, tools=[])))[2]
    assert complete.usage.prompt_tokens == without.usage.prompt_tokens
    assert (await ask(harness, request(WEATHER)))[2].usage.prompt_tokens > without.usage.prompt_tokens
    assert (await ask(harness, request(WEATHER, "plain", tool_choice=NONE)))[0] == [WEATHER]


@pytest.mark.parametrize("choice", [REQUIRED, i.ToolChoice(function="weather")])
async def test_a_forced_call_is_made_by_its_schema(harness: Harness, choice: Any) -> None:
    texts, calls, _ = await ask(harness, request("Hello", tool_choice=choice))
    assert (texts, calls) == ([""], [[("weather", '{"city": ""}')]])


async def test_the_prompt_holds_tools_calls_and_variables(harness: Harness) -> None:
    call = i.ToolCall(id="1", name="weather", arguments='{"city": "Zürich"}')
    chat = i.ChatPrompt(
        messages=[
            i.ChatMessage(role=i.CHAT_ROLE_ASSISTANT, tool_calls=[call]),
            i.ChatMessage(role=i.CHAT_ROLE_TOOL, content="Sunny", tool_call_id="1"),
        ],
        tools=TOOLS[1:],
        template_kwargs={"preface": '"Be short."'},
    )
    told = await harness.inference.Tokenize(i.TokenizeRequest(model="m", chat=chat))
    assert bytes(token for token in told.token_ids if token < 256).decode() == (
        'system\nBe short.\n{"type": "function", "function": {"name": "now"}}\n'
        'assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>\n'
        "tool\nSunny\nassistant\n"
    )


async def test_a_model_without_tools_refuses_them(harness: Harness) -> None:
    error = await refusal(harness.inference.Generate(request("Hello", "plain")))
    assert (error.reason, error.metadata["field"]) == (Reason.UNSUPPORTED, "tools")
    assert harness.generator.running == 0


USER = i.CHAT_ROLE_USER
SHAPE = i.SamplingParams(structured_output=i.StructuredOutput(json_object=True))


@pytest.mark.parametrize(
    ("chat", "field"),
    [
        ({"tools": [i.Tool()]}, "tools[0].name"),
        ({"tools": [i.Tool(name="f", parameters="{")]}, "tools[0].parameters"),
        ({"tools": [i.Tool(name="f", parameters="[]")]}, "tools[0].parameters"),
        ({"tool_choice": i.ToolChoice(function="then")}, "tool_choice"),
        ({"tools": [], "tool_choice": REQUIRED}, "tool_choice"),
        ({"tool_choice": REQUIRED, "sampling": SHAPE}, "tool_choice"),
        ({"template_kwargs": {"x": "{"}}, "chat_template_kwargs.x"),
        ({"template_kwargs": {"tools": "[]"}}, "chat_template_kwargs.tools"),
        ({"template_kwargs": {"chat_template": '"{{ x }}"'}}, "chat_template_kwargs.chat_template"),
        ({"messages": [{"role": USER, "tool_calls": [{"name": "f"}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": i.CHAT_ROLE_ASSISTANT, "tool_calls": [{"name": ""}]}]}, "messages[0].tool_calls"),
        (
            {"messages": [{"role": i.CHAT_ROLE_ASSISTANT, "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            "messages[0].tool_calls",
        ),
    ],
)
async def test_what_is_wrong_is_named(harness: Harness, chat: dict[str, Any], field: str) -> None:
    error = await refusal(harness.inference.Generate(request("x", **chat)))
    assert (error.reason, error.metadata["field"]) == (Reason.INVALID_ARGUMENT, field)
