"""What ends an assistant's turn, and whether a template has what a conversation with tools needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finery_shared.errors import FineryError, Reason
from finery_shared.templates.families import family_of
from finery_shared.templates.tokenizer import ChatTokenizer, Messages, template_text


def end_of_turn(tokenizer: ChatTokenizer) -> re.Pattern[str]:
    """Any token that may end a turn: the family's, EOS, and other special tokens."""
    return _any_of([*_ends(tokenizer), *tokenizer.all_special_tokens])


def end_of_tool_turn(tokenizer: ChatTokenizer) -> re.Pattern[str]:
    """A token that may end a turn with tool calls, in which other special tokens stand."""
    return _any_of(_ends(tokenizer))


def mentions_call(turn: str, message: Mapping[str, Any]) -> bool:
    """Whether a rendered turn holds the message's words, and the names and arguments of all its tool calls."""
    return str(message["content"]).strip() in turn and _has_calls(turn, message)


def check_calls(text: str, messages: Messages) -> None:
    """Raise UNSUPPORTED when a rendered text lacks tool calls that its messages have.

    The words beside them may be missing: Llama 3.1's template has no place for them, Qwen3's drops earlier thoughts.
    """
    if not all(_has_calls(text, message) for message in messages if message.get("tool_calls")):
        raise unsupported("it leaves out tool calls, so the model's family has none")


def check_tools(text: str, messages: Messages, tools: Sequence[Mapping[str, Any]]) -> None:
    """Raise UNSUPPORTED when a rendered text lacks a tool that is offered, or what a tool answered."""
    if not all(str(tool["function"]["name"]) in text for tool in tools):
        raise unsupported("it leaves out the tools that are offered, so the model's family has none")
    answers = [str(message["content"]).strip() for message in messages if message["role"] == "tool"]
    if not all(_says(text, answer) for answer in answers):
        raise unsupported("it leaves out what a tool answered, so the model's family has no tools")


def unsupported(problem: str) -> FineryError:
    """The error for a conversation that a template can't render."""
    return FineryError(
        Reason.UNSUPPORTED,
        f"This chat template can't be used for this conversation: {problem}. "
        "Check its roles, texts and tools, or use another model.",
    )


def _ends(tokenizer: ChatTokenizer) -> list[str | None]:
    family = family_of(template_text(tokenizer))
    return [family.end_of_turn, *family.stop_tokens, tokenizer.eos_token]


def _any_of(tokens: Iterable[object]) -> re.Pattern[str]:
    known = sorted({str(token) for token in tokens if token}, key=len, reverse=True)
    if not known:
        raise unsupported("the tokenizer has no special tokens, so nothing ends a turn")
    return re.compile("|".join(map(re.escape, known)))


def _has_calls(text: str, message: Mapping[str, Any]) -> bool:
    functions = [call["function"] for call in message["tool_calls"]]
    return all(
        _says(text, part) for function in functions for part in (function["name"], *_texts(function["arguments"]))
    )


def _says(text: str, part: str) -> bool:
    """Whether a rendered text holds another one, as it is or within a string of JSON."""
    return part in text or json.dumps(part, ensure_ascii=False)[1:-1] in text or json.dumps(part)[1:-1] in text


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value
