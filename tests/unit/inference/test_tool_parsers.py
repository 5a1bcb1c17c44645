"""Tool calls read from an answer: the calls, the text around them, and nothing lost, however the answer is cut."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from finery_inference.generation.tools.formats import FORMATS
from finery_inference.generation.tools.parser import Parsed, ToolCallParser
from finery_shared.templates.tool_parsers import TOOL_PARSERS

NAMES = frozenset({"weather", "now"})
Call = tuple[str, str]


def parser(style: str) -> ToolCallParser:
    return FORMATS[style].parser(NAMES)


def read(style: str, pieces: Sequence[str]) -> tuple[str, list[Call]]:
    """The text and the calls of an answer in pieces."""
    reader = parser(style)
    return joined([*map(reader.feed, pieces), reader.finish()])


def joined(parts: Sequence[Parsed]) -> tuple[str, list[Call]]:
    calls: list[Call] = []
    for delta in (call for part in parts for call in part.calls):
        if delta.name:
            assert delta.index == len(calls)
            calls.append((delta.name, ""))
        assert delta.index == len(calls) - 1
        calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return "".join(part.text for part in parts), calls


def hermes(call: str) -> str:
    return f"<tool_call>\n{call}\n</tool_call>"


WEATHER = '{"name": "weather", "arguments": {"city": "Paris"}}'
NOW = '{"name": "now", "arguments": {}}'
PARIS = ("weather", '{"city": "Paris"}')

HERMES: list[tuple[str, str, list[Call]]] = [
    ("Hello", "Hello", []),
    ("", "", []),
    (hermes(WEATHER), "", [PARIS]),
    (f"Let me see.\n{hermes(WEATHER)}\n{hermes(NOW)}", "Let me see.", [PARIS, ("now", "{}")]),
    (f"a\n\n{hermes(WEATHER)}\nb", "a\n\nb", [PARIS]),
    (f"{hermes(WEATHER)}{hermes(WEATHER)}\n", "", [PARIS, PARIS]),
    (
        '<tool_call>{"name":"now","arguments":{"a":[{"b":"}]\\"{"}]}}</tool_call>',
        "",
        [("now", '{"a":[{"b":"}]\\"{"}]}')],
    ),
    (hermes('{"name": "no\\u0077", "parameters": {"x": 1}}'), "", [("now", '{"x": 1}')]),
    # A name that no tool has is the model's mistake, which it can mend when it is told.
    (hermes('{"name": "then", "arguments": {}}'), "", [("then", "{}")]),
    # Keys in another order, arguments in a string or left out.
    (hermes('{"arguments": {"x": "é"}, "name": "now"}'), "", [("now", '{"x": "é"}')]),
    (hermes('{"name": "now", "arguments": "{\\"x\\": 1}"}'), "", [("now", '{"x": 1}')]),
    (hermes('{"name": "now"}'), "", [("now", "{}")]),
    (hermes('{"name": "now", "arguments": null}'), "", [("now", "{}")]),
    (hermes('{"name": "now", "arguments": {"x": 1}, "id": "{7}"}'), "", [("now", '{"x": 1}')]),
    # Slips of the pen.
    ("<tool_call>" + WEATHER, "", [PARIS]),
    ("<tool_call>" + WEATHER[:-1], "", [PARIS]),
    (hermes(WEATHER + "}"), "", [PARIS]),
    (f"<tool_call>{WEATHER[:-1]}</tool_call>\n{hermes(NOW)}", "", [PARIS, ("now", "{}")]),
    (f"<tool_call>{WEATHER}</tool", "", [PARIS]),
    # Cut off in the arguments: they were on their way already.
    ('<tool_call>{"name": "weather", "arguments": {"city": "Pa', "", [("weather", '{"city": "Pa')]),
    # No calls.
    ('Say <tool_call>{"name": "wea', 'Say <tool_call>{"name": "wea', []),
    ("The tag <tool_call> begins a call.", "The tag <tool_call> begins a call.", []),
    (hermes("[1]"), hermes("[1]"), []),
    (hermes('{"name": 5, "arguments": {}}'), hermes('{"name": 5, "arguments": {}}'), []),
    (hermes('{"name": "", "arguments": {}}'), hermes('{"name": "", "arguments": {}}'), []),
    (hermes('{"name": "now", "arguments": [1]}'), hermes('{"name": "now", "arguments": [1]}'), []),
    (hermes('{"name": "now", "arguments": "x"}'), hermes('{"name": "now", "arguments": "x"}'), []),
    (hermes('{"name": "\\ud800", "arguments": {}}'), hermes('{"name": "\\ud800", "arguments": {}}'), []),
    (f"<tool_call>x\n{hermes(NOW)}", "<tool_call>x", [("now", "{}")]),
    (f"{hermes(NOW)}\n<tool_c", "\n<tool_c", [("now", "{}")]),
    ("a < b\n<too", "a < b\n<too", []),
]
LLAMA_WEATHER = WEATHER.replace("arguments", "parameters")
LLAMA_NOW = NOW.replace("arguments", "parameters")
LLAMA: list[tuple[str, str, list[Call]]] = [
    ("Hello", "Hello", []),
    (" \n", " \n", []),
    (LLAMA_WEATHER, "", [PARIS]),
    (f"\n{LLAMA_WEATHER}; {NOW}\n", "", [PARIS, ("now", "{}")]),
    (f"{LLAMA_WEATHER}\nDone.", "\nDone.", [PARIS]),
    (f"I call {LLAMA_WEATHER}", f"I call {LLAMA_WEATHER}", []),
    ('{"city": "Paris"}', '{"city": "Paris"}', []),
    ('{"name": "Ann", "age": 5}', '{"name": "Ann", "age": 5}', []),
    ('{"name": "Ann", "parameters": {}}', '{"name": "Ann", "parameters": {}}', []),
    ('  {"name": "now"', '  {"name": "now"', []),
    ('{"name": "", "parameters": {}}', '{"name": "", "parameters": {}}', []),
    (f'{LLAMA_NOW}; {{"x"', '; {"x"', [("now", "{}")]),
    ('{"name": "now", "parameters": {"x": [1, ', "", [("now", '{"x": [1, ')]),
]
CASES = [("hermes", *case) for case in HERMES] + [("llama3_json", *case) for case in LLAMA]


@pytest.mark.parametrize(("style", "answer", "text", "calls"), CASES)
def test_an_answer_gives_the_same_whole_and_letter_by_letter(
    style: str, answer: str, text: str, calls: list[Call]
) -> None:
    assert read(style, [answer]) == (text, calls)
    assert read(style, list(answer)) == (text, calls)


PARTS = [
    *("<tool_call>", "</tool_call>", "\n", " ", ";", "{", "}", "[", '"', "\\", ",", ":", "text", "é"),
    *('"name"', '"arguments"', '"parameters"', '"now"', '"\\u0041"', "null", "5"),
    *(WEATHER, NOW, LLAMA_WEATHER, '{"name": "now", "arguments": ', hermes(WEATHER)),
]
ANSWERS = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), max_size=12).map("".join)


@st.composite
def cut(draw: st.DrawFn) -> tuple[str, list[str]]:
    answer = draw(ANSWERS)
    places = sorted(draw(st.sets(st.integers(0, len(answer)), max_size=8)))
    return answer, [answer[a:b] for a, b in zip([0, *places], [*places, len(answer)], strict=True)]


@pytest.mark.parametrize("style", sorted(FORMATS))
@given(cut())
@example((hermes(WEATHER), [hermes(WEATHER)[:14], hermes(WEATHER)[14:]]))
def test_any_answer_gives_the_same_however_it_is_cut(style: str, answer: tuple[str, list[str]]) -> None:
    whole, pieces = answer
    text, calls = read(style, [whole])
    assert read(style, pieces) == (text, calls)
    if not calls:
        assert text == whole


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=20).map(str.strip)
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.dictionaries(st.text(), VALUES, max_size=3)), min_size=1)


@given(WORDS, CALLS, st.booleans())
def test_what_a_template_writes_is_read_back(words: str, calls: list[tuple[str, dict[str, Any]]], ascii: bool) -> None:
    """The turn as Qwen2.5's template writes it, with any arguments."""
    turn = "\n".join(
        [
            *filter(None, [words]),
            *(hermes(json.dumps({"name": n, "arguments": a}, ensure_ascii=ascii)) for n, a in calls),
        ]
    )
    text, found = read("hermes", list(turn))
    assert text == words
    assert [(name, json.loads(arguments)) for name, arguments in found] == calls


def feed_letters(style: str) -> Callable[[str], Parsed]:
    """Reads letters on and returns what the last one gave."""
    reader = parser(style)
    return lambda text: [reader.feed(letter) for letter in text][-1]


def test_text_is_held_back_only_while_it_may_begin_a_call() -> None:
    feed = feed_letters("hermes")
    assert feed("a").text == "a"
    assert feed("\n").text == ""
    assert feed("b").text == "\nb"
    assert feed(" <tool").text == ""
    assert feed("s").text == "<tools"
    assert feed("<tool_call>\n").text == ""
    assert feed("x").text == "<tool_call>\nx"


def test_json_that_names_no_tool_is_not_held_back() -> None:
    feed = feed_letters("llama3_json")
    assert feed('{"').text == ""
    assert feed("c").text == '{"c'
    assert feed('ity": 1').text == "1"


def test_arguments_come_as_they_are_written() -> None:
    feed = feed_letters("hermes")
    feed('<tool_call>\n{"name": "weather", "arguments": ')
    [begun] = feed("{").calls
    assert (begun.index, begun.name, begun.arguments) == (0, "weather", "{")
    for letter in '"city": "Paris"}':
        [delta] = feed(letter).calls
        assert (delta.index, delta.name, delta.arguments) == (0, "", letter)
    assert feed("}\n</tool_call>") == Parsed()


def test_every_format_that_the_registry_names_is_read() -> None:
    assert {known.name for known in TOOL_PARSERS} == set(FORMATS)
