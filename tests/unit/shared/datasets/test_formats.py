from typing import Any

import pytest

from finery_shared.datasets.formats import RowProblem, to_turns


def pairs(fields: dict[str, Any]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in to_turns(fields)]


QA = [("user", "Q"), ("assistant", "A")]
LONG = [("system", "S"), ("user", "q"), ("assistant", "a"), *QA]


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
        (messages(("tool", "x")), "role is 'tool'"),
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
