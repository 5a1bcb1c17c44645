"""Messages to token ids and a loss mask, by the tokenizer's own chat template, each step proved on the way.

Training and serving have to see the same tokens. So the ids are what ``apply_chat_template`` yields, and a turn's loss
starts exactly where a prompt for that turn would end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery_shared.templates.tokenizer import ChatTokenizer, Messages
from finery_shared.templates.turns import (
    check_calls,
    check_tools,
    end_of_tool_turn,
    end_of_turn,
    mentions_call,
    unsupported,
)

Tools = Sequence[Mapping[str, Any]]
"""Functions that the assistant may call, in OpenAI's shape."""

Variables = Mapping[str, Any]
"""Further variables of a chat template, by name; see `check_variables`."""


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, ready for generation."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Rendered:
    """A rendered row. ``loss_mask`` has one entry for each id: 1 where the token is to be learned."""

    text: str
    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]

    def labels(self, ignore: int = -100) -> list[int]:
        """The ids that are to be learned, ``ignore`` elsewhere; not shifted."""
        return [token if learn else ignore for token, learn in zip(self.token_ids, self.loss_mask, strict=True)]


def render(tokenizer: ChatTokenizer, messages: Messages, tools: Tools = ()) -> Rendered:
    """Render a conversation; the loss covers every assistant turn with its end-of-turn token, and nothing else.

    What a template puts between the end-of-turn token and the next turn (ChatML: a newline) is not learned. Tool calls
    are part of their turn; what tools answer is not learned.

    Raises UNSUPPORTED when the template refuses the messages, changes earlier turns when later ones are added, does
    not end a turn with a special token, lets a prompt's last token melt into the answer, or has no tool messages.
    """
    text = _text(tokenizer, messages, tools, prompt=False)
    ids = _ids(tokenizer, messages, tools, prompt=False)
    if tokenizer.encode(text, add_special_tokens=False) != ids:
        raise unsupported("tokenizing the rendered text gives other ids than apply_chat_template does")
    mask = [0] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt, turn_end = _turn_span(tokenizer, text, messages, tools, index)
            start, end = (_token_position(tokenizer, text[:cut], ids) for cut in (prompt, turn_end))
            mask[start:end] = [1] * (end - start)
    check_tools(text, messages, tools)
    return Rendered(text, tuple(ids), tuple(mask))


def render_text(tokenizer: ChatTokenizer, text: str) -> Rendered:
    """A plain text as the tokenizer frames it, with an EOS token at its end; all but the first token is learned."""
    ids = tokenizer.encode(text, add_special_tokens=True)
    end = tokenizer.encode(str(tokenizer.eos_token or ""), add_special_tokens=False)
    if ids[-len(end) :] != end:
        ids = [*ids, *end]
    return Rendered(text, tuple(ids), (0, *[1] * (len(ids) - 1)) if ids else ())


def render_prompt(
    tokenizer: ChatTokenizer, messages: Messages, tools: Tools = (), variables: Variables | None = None
) -> Prompt:
    """Render messages up to the point where the assistant answers.

    Raises UNSUPPORTED if the template refuses, or leaves out tools, tool calls or what a tool answered.
    """
    ids = _ids(tokenizer, messages, tools, prompt=True, variables=variables)
    text = _text(tokenizer, messages, tools, prompt=True, variables=variables)
    check_calls(text, messages)
    check_tools(text, messages, tools)
    return Prompt(text, tuple(ids))


def _turn_span(tokenizer: ChatTokenizer, text: str, messages: Messages, tools: Tools, index: int) -> tuple[int, int]:
    """Characters of one assistant turn: from where its prompt ends to the end of its end-of-turn token."""
    prompt = _text(tokenizer, messages[:index], tools, prompt=True)
    if not text.startswith(prompt):
        raise unsupported("it renders earlier turns differently once later ones follow, so its turns can't be told")
    if messages[index].get("tool_calls"):
        whole = _text(tokenizer, messages[: index + 1], tools, prompt=False)
        return len(prompt), _tool_turn_end(tokenizer, text, whole, len(prompt), messages[index])
    content = _plain(messages[index]["content"]).strip()
    at = text.find(content, len(prompt))
    ends = end_of_turn(tokenizer)
    if at < 0 or ends.search(text, len(prompt), at):
        raise unsupported("an assistant's text does not occur in the rendered turn as it was given")
    end = re.compile(rf"\s*(?:{ends.pattern})").match(text, at + len(content))
    if end is None:
        raise unsupported("it does not end an assistant's turn with a special token: a model would never learn to stop")
    return len(prompt), end.end()


def _tool_turn_end(tokenizer: ChatTokenizer, text: str, whole: str, start: int, message: Mapping[str, Any]) -> int:
    """Where a turn that calls tools ends; ``whole`` is the text up to there, and ends with its end-of-turn token."""
    if not text.startswith(whole.rstrip()):
        raise unsupported("it renders tool calls differently once later turns follow, so their turn can't be told")
    ends = [match.end() for match in end_of_tool_turn(tokenizer).finditer(whole, start)]
    if not ends or whole[ends[-1] :].strip():
        raise unsupported("it does not end a turn that calls tools with a special token")
    if not mentions_call(whole[start : ends[-1]], message):
        raise unsupported("it leaves out tool calls, so the model's family has none")
    return ends[-1]


def _token_position(tokenizer: ChatTokenizer, prefix: str, ids: Sequence[int]) -> int:
    """The number of tokens that a prefix of the text takes, proved to be the same tokens within the whole."""
    own = tokenizer.encode(prefix, add_special_tokens=False)
    if list(ids[: len(own)]) != own:
        raise unsupported(f"a token reaches across the border of a turn, at {prefix[-20:]!r}")
    return len(own)


def _text(
    tokenizer: ChatTokenizer, messages: Messages, tools: Tools, *, prompt: bool, variables: Variables | None = None
) -> str:
    return str(_apply(tokenizer, messages, tools, variables, tokenize=False, prompt=prompt))


def _ids(
    tokenizer: ChatTokenizer, messages: Messages, tools: Tools, *, prompt: bool, variables: Variables | None = None
) -> list[int]:
    return [int(token) for token in _apply(tokenizer, messages, tools, variables, tokenize=True, prompt=prompt)]


def _apply(
    tokenizer: ChatTokenizer,
    messages: Messages,
    tools: Tools,
    variables: Variables | None,
    *,
    tokenize: bool,
    prompt: bool,
) -> Any:
    conversation = [dict(message) for message in messages]
    more: dict[str, Any] = dict(variables or {})
    if tools:
        more["tools"] = [dict(tool) for tool in tools]
    try:
        return tokenizer.apply_chat_template(
            conversation, tokenize=tokenize, add_generation_prompt=prompt, return_dict=False, **more
        )
    except Exception as error:  # a template may raise whatever it likes about the messages
        raise unsupported(f"it refuses these messages ({error})") from error


def _plain(content: object) -> str:
    """A message's text; OpenAI's list of text parts is joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))
