"""Row formats: one function each turns a row's fields into turns; the first that recognises the keys reads the row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finery_shared.datasets.conversation import Turn

Fields = Mapping[str, Any]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}
"""Role names as they occur in data, and what they mean."""

KNOWN = (
    "{messages: [{role, content}, …]}, {conversations: [{from, value}, …]}, "
    "{instruction, input?, output}, {query, response, history?, system?}"
)
"""The known formats, for error messages."""


class RowProblem(ValueError):
    """Why a row can't be used, in words for its author."""


def to_turns(fields: Fields) -> tuple[Turn, ...]:
    """Turn a row into turns, checked: optional system, then user and assistant in turn, the assistant last, no blanks.

    Raises RowProblem.
    """
    for recognise, read in _FORMATS:
        if recognise(fields):
            return _checked(read(fields))
    keys = ", ".join(fields) or "no keys"
    raise RowProblem(f"its format is not recognised (found: {keys}; known: {KNOWN})")


def _read_messages(fields: Fields) -> list[Turn]:
    return _with_system(fields, [_turn(message, ("role",), ("content",)) for message in _list(fields, "messages")])


def _read_sharegpt(fields: Fields) -> list[Turn]:
    turns = [_turn(item, ("from", "role"), ("value", "content")) for item in _list(fields, "conversations")]
    return _with_system(fields, turns)


def _read_alpaca(fields: Fields) -> list[Turn]:
    parts = [_text(fields, "instruction"), _text(fields, "input")]
    question = Turn("user", "\n".join(part for part in parts if part.strip()))
    return _with_system(fields, [*_history(fields), question, Turn("assistant", _text(fields, "output"))])


def _read_query_response(fields: Fields) -> list[Turn]:
    pair = [Turn("user", _text(fields, "query")), Turn("assistant", _text(fields, "response"))]
    return _with_system(fields, [*_history(fields), *pair])


_FORMATS: Sequence[tuple[Callable[[Fields], bool], Callable[[Fields], list[Turn]]]] = (
    (lambda fields: "messages" in fields, _read_messages),
    (lambda fields: "conversations" in fields, _read_sharegpt),
    (lambda fields: "instruction" in fields and "output" in fields, _read_alpaca),
    (lambda fields: "query" in fields and "response" in fields, _read_query_response),
)


def _list(fields: Fields, key: str) -> Sequence[Any]:
    value = fields[key]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise RowProblem(f"{key} is not a list")
    return value


def _turn(item: object, role_keys: Sequence[str], text_keys: Sequence[str]) -> Turn:
    if not isinstance(item, Mapping):
        raise RowProblem("a message is not an object")
    role = next((item[key] for key in role_keys if key in item), None)
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowProblem(f"a message's role is {role!r}; known: {', '.join(ROLES)}")
    text = next((item[key] for key in text_keys if key in item), None)
    if not isinstance(text, str):
        raise RowProblem(f"a {role} message has no text")
    lang = item.get("lang")
    return Turn(ROLES[role.lower()], text, lang if isinstance(lang, str) else None)


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
    for pair in fields.get("history") or ():
        if not isinstance(pair, Sequence) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowProblem("history is not a list of [query, response] pairs")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns


def _checked(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    rest = turns[1:] if turns and turns[0].role == "system" else turns
    if not rest:
        raise RowProblem("it has no messages")
    for index, turn in enumerate(rest):
        expected = "assistant" if index % 2 else "user"
        if turn.role != expected:
            raise RowProblem(f"message {index + 1} is from {turn.role} where {expected} is due (they take turns)")
    if rest[-1].role != "assistant":
        raise RowProblem("it ends with the user: an assistant's answer has to come last")
    blank = next((turn.role for turn in turns if not turn.content.strip()), None)
    if blank is not None:
        raise RowProblem(f"the {blank}'s text is empty")
    return tuple(Turn(turn.role, _trimmed(turn), turn.lang) for turn in turns)


def _trimmed(turn: Turn) -> str:
    """Drop space at a text's ends; a question that starts with an indented line keeps its indent.

    Space before an answer would melt into the newline that chat templates put there, so that training would see a
    prompt which serving never sends.
    """
    if turn.role == "assistant":
        return turn.content.strip()
    lines = turn.content.rstrip().split("\n")
    first = next(index for index, line in enumerate(lines) if line.strip())
    return "\n".join(lines[first:])
