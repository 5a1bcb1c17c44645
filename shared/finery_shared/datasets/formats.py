"""Row formats: one function each turns a row's fields into turns; the first that recognises the keys reads the row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery_shared.datasets.characters import check_characters
from finery_shared.datasets.conversation import Turn
from finery_shared.datasets.problems import RowProblem
from finery_shared.datasets.tools import call_turn, read_calls, read_tools
from finery_shared.datasets.turns import checked

__all__ = ["ReadRow", "RowProblem", "read_fields", "to_turns"]

Fields = Mapping[str, Any]

TOOL_CALL = "tool_call"
"""The role of a turn whose text is a tool call; such turns become an assistant's message."""

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_call": TOOL_CALL,
    "function_call": TOOL_CALL,
}
"""Role names as they occur in data, and what they mean."""

KNOWN = (
    "{messages: [{role, content, tool_calls?}, …], tools?}, {conversations: [{from, value}, …]}, "
    "{conversation: [{human, assistant}, …]}, {instruction, input?, output}, "
    "{query, response, history?, system?}, {text}"
)
"""The known formats, for error messages."""

_SHOWN_KEYS = 10
"""Keys of a row that an error message names."""


@dataclass(frozen=True)
class ReadRow:
    """What a row holds: turns and the tools that they may call, or a plain text."""

    turns: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    text: str = ""


def read_fields(fields: Fields) -> ReadRow:
    """Read a row in any format; raises RowProblem."""
    row = _read(fields)
    check_characters([row.text, row.tools, *(turn.message() for turn in row.turns)])
    return row


def _read(fields: Fields) -> ReadRow:
    for key, read in _FORMATS:
        if all(_has(fields, name) for name in key):
            return ReadRow(checked(_joined(read(fields))), read_tools(_list(fields, "tools")))
    if _has(fields, "text"):
        return ReadRow(text=_plain_text(fields))
    raise RowProblem(f"its format is not recognised (found: {_shown(list(fields))}; known: {KNOWN})")


def _shown(keys: Sequence[str]) -> str:
    """The first keys of a row, and how many more there are: a table may have hundreds of columns."""
    more = len(keys) - _SHOWN_KEYS
    return ", ".join(keys[:_SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "") or "no keys"


def to_turns(fields: Fields) -> tuple[Turn, ...]:
    """Turn a row into turns, checked (see `checked`); none if it is plain text. Raises RowProblem."""
    return read_fields(fields).turns


def _read_messages(fields: Fields) -> list[Turn]:
    return _with_system(fields, [_turn(message, ("role",), ("content",)) for message in _list(fields, "messages")])


def _read_sharegpt(fields: Fields) -> list[Turn]:
    turns = [_turn(item, ("from", "role"), ("value", "content")) for item in _list(fields, "conversations")]
    return _with_system(fields, turns)


def _read_pairs(fields: Fields) -> list[Turn]:
    turns: list[Turn] = []
    for pair in _list(fields, "conversation"):
        if not isinstance(pair, Mapping) or not {"human", "assistant"} <= set(pair):
            raise RowProblem("conversation is not a list of {human, assistant} pairs")
        turns += [Turn("user", _text(pair, "human")), Turn("assistant", _text(pair, "assistant"))]
    return _with_system(fields, turns)


def _read_alpaca(fields: Fields) -> list[Turn]:
    parts = [_text(fields, "instruction"), _text(fields, "input")]
    question = Turn("user", "\n".join(part for part in parts if part.strip()))
    return _with_system(fields, [*_history(fields), question, Turn("assistant", _text(fields, "output"))])


def _read_query_response(fields: Fields) -> list[Turn]:
    pair = [Turn("user", _text(fields, "query")), Turn("assistant", _text(fields, "response"))]
    return _with_system(fields, [*_history(fields), *pair])


_FORMATS: Sequence[tuple[tuple[str, ...], Callable[[Fields], list[Turn]]]] = (
    (("messages",), _read_messages),
    (("conversations",), _read_sharegpt),
    (("conversation",), _read_pairs),
    (("instruction", "output"), _read_alpaca),
    (("query", "response"), _read_query_response),
)


def _has(fields: Fields, key: str) -> bool:
    """Whether a row has the field. Tables have every column in every row: None stands for those of other formats."""
    return key in fields and (fields[key] is not None or key in ("output", "response"))


def _plain_text(fields: Fields) -> str:
    text = _text(fields, "text")
    if not text.strip():
        raise RowProblem("the text is empty")
    return text


def _list(fields: Fields, key: str, of: str = "") -> Sequence[Any]:
    """A list, or the JSON text of one, as tables have it; empty where there is none."""
    value = fields.get(key)
    if value is None or value == "":
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise RowProblem(f"{key} is a text that is not JSON ({error.msg})") from error
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowProblem(f"{key} is not a list{of}")
    return value


def _turn(item: object, role_keys: Sequence[str], text_keys: Sequence[str]) -> Turn:
    if not isinstance(item, Mapping):
        raise RowProblem("a message is not an object")
    role = next((item[key] for key in role_keys if key in item), None)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowProblem(f"a message's role is {role!r}; known: {', '.join(ROLES)}")
    calls = read_calls(item)
    text = _content(next((item[key] for key in text_keys if key in item), None), role, optional=bool(calls))
    meaning = ROLES[role.lower()]
    if meaning == TOOL_CALL:
        return call_turn(text)
    if calls and meaning != "assistant":
        raise RowProblem(f"a {role} message has tool_calls; only an assistant calls tools")
    answered, name, lang = (item.get(key) for key in ("tool_call_id", "name", "lang"))
    return Turn(
        meaning,
        text,
        lang if isinstance(lang, str) else None,
        calls,
        answered if isinstance(answered, str) else "",
        name if isinstance(name, str) and meaning == "tool" else "",
    )


def _content(content: object, role: str, *, optional: bool) -> str:
    """A message's text; OpenAI's text parts stand on lines of their own, as they do where a model is served."""
    if isinstance(content, Sequence) and not isinstance(content, str):
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise RowProblem(f"a {role} message has parts that are not text")
        return "\n".join(map(str, texts))
    if content is None and optional:
        return ""
    if not isinstance(content, str):
        raise RowProblem(f"a {role} message has no text")
    return content


def _joined(turns: list[Turn]) -> list[Turn]:
    """Tool calls that follow each other are one message; so are an assistant's words and the calls after them."""
    joined: list[Turn] = []
    for turn in turns:
        before = joined[-1] if joined else None
        continues = turn.role == "assistant" and turn.tool_calls and not turn.content.strip()
        if continues and before is not None and before.role == "assistant":
            joined[-1] = Turn("assistant", before.content, before.lang, before.tool_calls + turn.tool_calls)
        else:
            joined.append(turn)
    return joined


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise RowProblem(f"{key} is not a text")
    return value or ""


def _with_system(fields: Fields, turns: list[Turn]) -> list[Turn]:
    system = _text(fields, "system")
    return [Turn("system", system), *turns] if system.strip() else turns


def _history(fields: Fields) -> list[Turn]:
    """``history`` is a list of (query, response) pairs."""
    turns: list[Turn] = []
    for pair in _list(fields, "history", " of [query, response] pairs"):
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowProblem("history is not a list of [query, response] pairs")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns
