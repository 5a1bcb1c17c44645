"""What a structural tag lets a model write, asked of xgrammar itself."""

from typing import Any

import pytest
from xgrammar import Grammar
from xgrammar.testing import _is_grammar_accept_string

from finery_inference.generation.request import ChatInput, Tool, ToolChoice
from finery_inference.generation.tools.constraint import constraint
from finery_inference.generation.tools.formats import FORMATS

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER, NOW = Tool("weather", parameters=SCHEMA), Tool("now")
CITY = '{"city": "Paris"}'


def accepts(text: str, choice: ToolChoice, *tools: Tool, style: str = "hermes", **more: Any) -> bool:
    prompt = ChatInput((), tools or (WEATHER, NOW), choice, **more)
    found = constraint(FORMATS[style], prompt)
    assert found is not None
    return bool(_is_grammar_accept_string(Grammar.from_structural_tag(str(found.value)), text))


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        (call("weather", CITY), True),
        (call("now", "{}"), True),
        (f"{call('weather', CITY)}\n{call('now', '{}')}", True),
        (call("weather", "{}"), False),
        (call("weather", '{"city": 5}'), False),
        (call("now", CITY), False),
        (call("then", "{}"), False),
        (call("weather", '{\n\n\n"city": "Paris"}'), False),
        ("", False),
        ("Hello", False),
        (f"Well. {call('now', '{}')}", False),
    ],
)
def test_required(text: str, fine: bool) -> None:
    assert accepts(text, "required") is fine


def test_a_named_tool_is_called_once() -> None:
    assert accepts(call("weather", CITY), "function", function="weather")
    assert not accepts(call("now", "{}"), "function", function="weather")
    assert not accepts(f"{call('weather', CITY)}\n{call('weather', CITY)}", "function", function="weather")


def test_one_call_where_one_is_wanted() -> None:
    two = f"{call('now', '{}')}\n{call('now', '{}')}"
    assert accepts(two, "required")
    assert not accepts(two, "required", parallel_tool_calls=False)


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("Hello", True),
        (f"Well.\n{call('weather', CITY)}", True),
        (call("weather", "{}"), False),
        (call("now", '{"anything": [1]}'), True),
        (call("then", "{}"), False),
    ],
)
def test_a_strict_tool_is_held_to_its_schema_when_it_is_called(text: str, fine: bool) -> None:
    assert accepts(text, "auto", Tool("weather", parameters=SCHEMA, strict=True), NOW) is fine


def test_without_force_or_strictness_anything_goes() -> None:
    assert constraint(FORMATS["hermes"], ChatInput((), (WEATHER, NOW))) is None


def test_llama_writes_bare_objects() -> None:
    weather, now = f'{{"name": "weather", "parameters": {CITY}}}', '{"name": "now", "parameters": {}}'
    assert accepts(f"{weather}; {now}", "required", style="llama3_json")
    assert not accepts(call("now", "{}"), "required", style="llama3_json")
    strict = Tool("weather", parameters=SCHEMA, strict=True)
    assert accepts("Hello", "auto", strict, style="llama3_json")
    assert not accepts('{"name": "weather", "parameters": {}}', "auto", strict, style="llama3_json")
