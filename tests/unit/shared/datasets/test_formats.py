import json
from typing import Any

import pytest

from finery_shared.datasets.formats import RowProblem, read_fields, to_turns


def pairs(fields: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in to_turns(fields)]


QA = [("user", "Q"), ("assistant", "A")]
LONG = [("system", "S"), ("user", "q"), ("assistant", "a"), *QA]
AS_MESSAGES = [{"role": role, "content": content} for role, content in LONG[1:]]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, QA),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, QA),
        ({"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}, QA),
        ({"instruction": "Q", "output": "A"}, QA),
        ({"instruction": "Q", "input": "", "output": "A", "text": "ignored"}, QA),
        ({"instruction": "Sum up:", "input": "text", "output": "A"}, [("user", "Sum up:\ntext"), ("assistant", "A")]),
        ({"instruction": "", "input": "Q", "output": "A"}, QA),
        ({"query": "Q", "response": "A"}, QA),
        ({"query": "Q", "response": "A", "messages": None, "text": None}, QA),
        ({"query": "Q", "response": "A", "history": '[["q", "a"]]', "system": "S"}, LONG),
        ({"messages": '[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]'}, QA),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "Q"}]},
                    {"role": "bot", "content": "A"},
                ]
            },
            QA,
        ),
        ({"conversation": [{"human": "Q", "assistant": "A"}]}, QA),
        ({"conversation": [{"human": "q", "assistant": "a"}, {"human": "Q", "assistant": "A"}], "system": "S"}, LONG),
        ({"messages": [{"role": "developer", "content": "S"}, *AS_MESSAGES]}, LONG),
        ({"query": "Q", "response": "A", "history": None, "system": None}, QA),
        ({"query": "Q", "response": "A", "history": [["q", "a"]], "system": "S"}, LONG),
        ({"instruction": "Q", "output": "A", "history": [["q", "a"]], "system": "S"}, LONG),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q"},
                    {"from": "gpt", "value": "a"},
                    {"from": "user", "value": "Q"},
                    {"from": "assistant", "value": "A"},
                ],
                "system": "S",
            },
            LONG,
        ),
    ],
)
def test_known_formats(fields: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert pairs(fields) == expected


CALLING: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Paris?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
            {"id": "2", "type": "function", "function": {"name": "now", "arguments": ""}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "name": "weather", "content": "Sunny"},
    {
        "role": "tool",
        "tool_call_id": "2",
        "content": [{"type": "text", "text": "Noon"}, {"type": "text", "text": "UTC"}],
    },
    {"role": "assistant", "content": "Sunny at noon."},
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "default": None}}}


def test_openai_tool_messages() -> None:
    row = read_fields({"messages": CALLING, "tools": [TOOL, '{"name": "now"}']})
    assert [turn.message() for turn in row.turns] == [
        CALLING[0],
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}, "id": "1"},
                {"type": "function", "function": {"name": "now", "arguments": {}}, "id": "2"},
            ],
        },
        CALLING[2],
        {"role": "tool", "content": "Noon\nUTC", "tool_call_id": "2"},  # as serving joins them
        CALLING[4],
    ]
    assert row.tools == (
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "now"}},
    )


def test_a_tool_reads_the_same_however_it_is_written() -> None:
    parameters = {"type": "object", "properties": {"b": {}, "a": {}}}
    written = {
        "strict": True,
        "parameters": parameters,
        "returns": "text",
        "description": "Tells it.",
        "name": "weather",
    }
    row = read_fields({"messages": CALLING, "tools": [written, {"name": "now", "description": "", "parameters": {}}]})
    assert [json.dumps(tool["function"]) for tool in row.tools] == [
        json.dumps({"name": "weather", "description": "Tells it.", "parameters": parameters}),
        json.dumps({"name": "now", "parameters": {}}),
    ]


@pytest.mark.parametrize(
    "fields",
    [
        {
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "Wait."},
                {"role": "tool_call", "content": '{"name": "f", "arguments": {"x": 1}}'},
                {"role": "tool_call", "content": '{"name": "g"}'},
                {"role": "tool_response", "content": "5"},
                {"role": "assistant", "content": "A"},
            ]
        },
        {
            "conversations": [
                {"from": "human", "value": "Q"},
                {"from": "gpt", "value": "Wait."},
                {"from": "function_call", "value": '[{"name": "f", "arguments": "{\\"x\\": 1}"}, {"name": "g"}]'},
                {"from": "observation", "value": "5"},
                {"from": "gpt", "value": "A"},
            ]
        },
    ],
)
def test_calls_in_turns_of_their_own(fields: dict[str, Any]) -> None:
    turns = to_turns(fields)
    assert [turn.role for turn in turns] == ["user", "assistant", "tool", "assistant"]
    assert turns[1].content == "Wait."
    assert [call["function"] for call in turns[1].tool_calls] == [
        {"name": "f", "arguments": {"x": 1}},
        {"name": "g", "arguments": {}},
    ]


def test_plain_text() -> None:
    row = read_fields({"text": " Once upon a time.\n"})
    assert (row.turns, row.text) == ((), " Once upon a time.\n")


def test_messages_keep_their_own_language() -> None:
    message = {"role": "user", "content": "Q", "lang": "zh"}
    turns = to_turns({"messages": [message, {"role": "assistant", "content": "A"}]})
    assert [turn.lang for turn in turns] == ["zh", None]


@pytest.mark.parametrize(
    ("role", "text", "trimmed"),
    [
        ("user", "\n\n  Q \n", "  Q"),
        ("assistant", "\n  A \n", "A"),
        ("assistant", "def f():\n    pass\n", "def f():\n    pass"),
    ],
)
def test_space_at_the_ends_is_dropped(role: str, text: str, trimmed: str) -> None:
    fields = {"query": "Q", "response": "A", "query" if role == "user" else "response": text}
    assert dict(pairs(fields))[role] == trimmed


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"prompt": "Q", "completion": "A"}, "found: prompt, completion; known: {messages"),
        ({}, "found: no keys"),
        ({"messages": "text"}, "messages is not a list"),
        ({"messages": []}, "it has no messages"),
        ({"messages": ["text"]}, "a message is not an object"),
        (messages(("narrator", "x")), "role is 'narrator'"),
        (messages(("tool", "x")), "message 1 is from tool where user is due"),
        (messages(("user", "Q"), ("tool", "x")), "message 2 is from tool where assistant is due"),
        (messages(("user", [{"type": "image_url"}])), "a user message has parts that are not text"),
        (messages(("user", "Q"), ("tool_call", "{")), "a tool call is not JSON"),
        (messages(("user", "Q"), ("tool_call", "{}")), "a tool call has no function name"),
        (messages(("user", "Q"), ("tool_call", '{"name": "f", "arguments": 5}')), "arguments of the call of f are not"),
        (
            messages(("user", "Q"), ("tool_call", '{"name": "f"}'), ("user", "Q")),
            "message 3 is from user where tool is",
        ),
        (messages(("user", "Q"), ("tool_call", '{"name": "f"}'), ("tool", "5")), "it ends with the tool"),
        ({**messages(("user", "Q"), ("assistant", "A")), "tools": [{}]}, "a tool has no name"),
        ({"messages": [{"role": "user", "content": "Q", "tool_calls": [{"name": "f"}]}]}, "only an assistant calls"),
        ({"messages": [*CALLING[:2], {"role": "tool", "content": "5", "tool_call_id": "other"}]}, "'other', which was"),
        ({"messages": "[{"}, "messages is a text that is not JSON"),
        ({"text": " "}, "the text is empty"),
        ({"conversation": [{"human": "Q"}]}, "conversation is not a list of {human, assistant} pairs"),
        ({"conversation": []}, "it has no messages"),
        ({"messages": [{"content": "x"}]}, "role is None"),
        (messages(("user", None)), "a user message has no text"),
        (messages(("system", "S")), "it has no messages"),
        (messages(("user", "Q")), "ends with the user"),
        (messages(("assistant", "A")), "message 1 is from assistant where user is due"),
        (messages(("user", "Q"), ("user", "Q")), "message 2 is from user where assistant is due"),
        (messages(("user", "Q"), ("assistant", "A"), ("system", "S")), "message 3 is from system"),
        (messages(("user", "Q"), ("assistant", " \n")), "the assistant's text is empty"),
        ({"instruction": "", "input": " ", "output": "A"}, "the user's text is empty"),
        ({"query": "Q", "response": None}, "the assistant's text is empty"),
        ({"query": 5, "response": "A"}, "query is not a text"),
        ({"query": "Q", "response": "A", "history": [["only one"]]}, "history is not a list of [query, response]"),
        ({"query": "Q", "response": "A", "history": "text"}, "history is not a list of [query, response]"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(RowProblem) as caught:
        to_turns(fields)
    assert problem in str(caught.value)
