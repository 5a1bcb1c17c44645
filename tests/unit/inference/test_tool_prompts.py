"""One template: serving gives the engine the very tokens that training rendered, tools and calls included."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finery.inference.v1 import inference_pb2 as i
from finery_inference.convert_chat import chat_input
from finery_inference.engines.fake import FakeEngine, FakePace
from finery_inference.engines.protocol import EngineConfig, Tokenizer
from finery_inference.generation.loaded import LoadedModel, front
from finery_inference.generation.prompt import token_ids
from finery_shared.datasets.conversation import Conversation
from finery_shared.datasets.formats import read_fields
from finery_shared.datasets.turns import checked
from finery_shared.errors import FineryError, Reason
from finery_shared.templates import render_row
from tests.fakes.qwen_tokenizer import QWEN_CHAT_TEMPLATE, write_qwen_tokenizer
from tests.unit.shared.templates.family_templates import QWEN2_5

ROLES = {
    "system": i.CHAT_ROLE_SYSTEM,
    "user": i.CHAT_ROLE_USER,
    "assistant": i.CHAT_ROLE_ASSISTANT,
    "tool": i.CHAT_ROLE_TOOL,
}


class LendingEngine(FakeEngine):
    """An engine with a real tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(EngineConfig(model=tokenizer.name_or_path), FakePace())
        self._lent = tokenizer

    @property
    def tokenizer(self) -> Tokenizer:
        return self._lent  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(tmp_path_factory, QWEN2_5)


def load(paths: pytest.TempPathFactory, template: str) -> LoadedModel:
    from transformers import AutoTokenizer

    directory = write_qwen_tokenizer(paths.mktemp("qwen"), template)
    return front(LendingEngine(AutoTokenizer.from_pretrained(directory)), directory)


def asked(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> i.ChatPrompt:
    """A row's messages as a client sends them: arguments and schemas as JSON text."""
    return i.ChatPrompt(
        messages=[
            i.ChatMessage(
                role=ROLES[message["role"]],
                content=message["content"] or "",
                tool_call_id=message.get("tool_call_id", ""),
                name=message.get("name", ""),
                tool_calls=[i.ToolCall(id=call["id"], **_function(call)) for call in message.get("tool_calls", ())],
            )
            for message in messages
        ],
        tools=[
            i.Tool(
                name=tool["function"]["name"],
                description=tool["function"].get("description", ""),
                parameters=_json(tool["function"].get("parameters")),
            )
            for tool in tools
        ],
    )


def _function(call: Mapping[str, Any]) -> dict[str, str]:
    arguments = call["function"]["arguments"]
    return {
        "name": call["function"]["name"],
        "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
    }


def _json(value: Any) -> str:
    return "" if value is None else json.dumps(value)


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20).map(
    lambda text: f"<{text.strip()}>"
)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)
TOOL = st.fixed_dictionaries(
    {"name": st.sampled_from(["weather", "now"])},
    optional={
        "parameters": st.just({"type": "object", "properties": {}}) | st.just({"type": "object", "default": None}),
        "description": TEXT | st.just(""),
        "strict": st.booleans(),
    },
).map(lambda function: {"type": "function", "function": dict(reversed(function.items()))})


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """A conversation with a call in it, as data sets have it: arguments as an object or as text."""
    arguments = draw(ARGUMENTS)
    call = {
        "id": "call_1",
        "type": "function",
        "function": {
            "name": "weather",
            "arguments": draw(st.sampled_from([arguments, json.dumps(arguments, ensure_ascii=draw(st.booleans()))])),
        },
    }
    messages = [
        {"role": "user", "content": draw(TEXT)},
        {"role": "assistant", "content": draw(TEXT | st.none()), "tool_calls": [call]},
        {"role": "tool", "content": draw(TEXT), "tool_call_id": "call_1", "name": "weather"},
        {"role": "assistant", "content": draw(TEXT)},
    ]
    if draw(st.booleans()):
        messages.insert(0, {"role": "system", "content": draw(TEXT)})
    return {"messages": messages, "tools": draw(st.lists(TOOL, max_size=2))}


@settings(deadline=None, max_examples=60)
@given(row=rows())
async def test_prompts_are_what_training_rendered(model: LoadedModel, row: dict[str, Any]) -> None:
    read = read_fields(row)
    trained = Conversation(tuple(turn.message() for turn in checked(read.turns)), "en", tools=read.tools)
    rendered = render_row(model.engine.tokenizer, trained)
    begins = [at for at, learn in enumerate(rendered.loss_mask) if learn and not rendered.loss_mask[at - 1]]
    answers = [at for at, message in enumerate(row["messages"]) if message["role"] == "assistant"]
    assert len(begins) == len(answers) == 2
    for begin, answer in zip(begins, answers, strict=True):
        prompt = await token_ids(model, chat_input(asked(row["messages"][:answer], row["tools"])))
        assert tuple(prompt) == rendered.token_ids[:begin]


async def test_a_template_that_leaves_tools_out_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = load(tmp_path_factory, QWEN_CHAT_TEMPLATE)
    tools = [{"type": "function", "function": {"name": "weather"}}]
    with pytest.raises(FineryError, match="leaves out the tools") as refusal:
        await token_ids(plain, chat_input(asked([{"role": "user", "content": "Hi"}], tools)))
    assert refusal.value.reason is Reason.UNSUPPORTED
