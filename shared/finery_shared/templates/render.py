"""Messages to token ids and a loss mask, by the tokenizer's own chat template, each step proved on the way.

Training and serving have to see the same tokens. So the ids are what ``apply_chat_template`` yields, and a turn's loss
starts exactly where a prompt for that turn would end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery_shared.errors import FineryError, Reason
from finery_shared.templates.families import family_of
from finery_shared.templates.tokenizer import ChatTokenizer, Messages, template_text


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt, ready for generation."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class Rendered:
    """A rendered conversation. ``loss_mask`` has one entry for each id: 1 where the token is to be learned."""

    text: str
    token_ids: tuple[int, ...]
    loss_mask: tuple[int, ...]

    def labels(self, ignore: int = -100) -> list[int]:
        """The ids that are to be learned, ``ignore`` elsewhere; not shifted."""
        return [token if learn else ignore for token, learn in zip(self.token_ids, self.loss_mask, strict=True)]


def render(tokenizer: ChatTokenizer, messages: Messages) -> Rendered:
    """Render a conversation; the loss covers every assistant turn with its end-of-turn token, and nothing else.

    What a template puts between the end-of-turn token and the next turn (ChatML: a newline) is not learned.

    Raises UNSUPPORTED when the template refuses the messages, changes earlier turns when later ones are added, does
    not end a turn with a special token, or lets a prompt's last token melt into the answer.
    """
    text = _text(tokenizer, messages, prompt=False)
    ids = _ids(tokenizer, messages, prompt=False)
    if tokenizer.encode(text, add_special_tokens=False) != ids:
        raise _unsupported("tokenizing the rendered text gives other ids than apply_chat_template does")
    mask = [0] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt, turn_end = _turn_span(tokenizer, text, messages, index)
            start, end = (_token_position(tokenizer, text[:cut], ids) for cut in (prompt, turn_end))
            mask[start:end] = [1] * (end - start)
    return Rendered(text, tuple(ids), tuple(mask))


def render_prompt(tokenizer: ChatTokenizer, messages: Messages) -> Prompt:
    """Render messages up to the point where the assistant answers; raises UNSUPPORTED if the template refuses."""
    return Prompt(_text(tokenizer, messages, prompt=True), tuple(_ids(tokenizer, messages, prompt=True)))


def _turn_span(tokenizer: ChatTokenizer, text: str, messages: Messages, index: int) -> tuple[int, int]:
    """Characters of one assistant turn: from where its prompt ends to the end of its end-of-turn token."""
    prompt = _text(tokenizer, messages[:index], prompt=True)
    if not text.startswith(prompt):
        raise _unsupported("it renders earlier turns differently once later ones follow, so its turns can't be told")
    content = _plain(messages[index]["content"]).strip()
    at = text.find(content, len(prompt))
    ends = _end_of_turn(tokenizer)
    if at < 0 or ends.search(text, len(prompt), at):
        raise _unsupported("an assistant's text does not occur in the rendered turn as it was given")
    end = re.compile(rf"\s*(?:{ends.pattern})").match(text, at + len(content))
    if end is None:
        raise _unsupported(
            "it does not end an assistant's turn with a special token: a model would never learn to stop"
        )
    return len(prompt), end.end()


def _end_of_turn(tokenizer: ChatTokenizer) -> re.Pattern[str]:
    """Any token that may end a turn: the family's, EOS, and other special tokens."""
    tokens = [family_of(template_text(tokenizer)).end_of_turn, tokenizer.eos_token, *tokenizer.all_special_tokens]
    known = sorted({str(token) for token in tokens if token}, key=len, reverse=True)
    if not known:
        raise _unsupported("the tokenizer has no special tokens, so nothing ends a turn")
    return re.compile("|".join(map(re.escape, known)))


def _token_position(tokenizer: ChatTokenizer, prefix: str, ids: Sequence[int]) -> int:
    """The number of tokens that a prefix of the text takes, proved to be the same tokens within the whole."""
    own = tokenizer.encode(prefix, add_special_tokens=False)
    if list(ids[: len(own)]) != own:
        raise _unsupported(f"a token reaches across the border of a turn, at {prefix[-20:]!r}")
    return len(own)


def _text(tokenizer: ChatTokenizer, messages: Messages, *, prompt: bool) -> str:
    return str(_apply(tokenizer, messages, tokenize=False, prompt=prompt))


def _ids(tokenizer: ChatTokenizer, messages: Messages, *, prompt: bool) -> list[int]:
    return [int(token) for token in _apply(tokenizer, messages, tokenize=True, prompt=prompt)]


def _apply(tokenizer: ChatTokenizer, messages: Messages, *, tokenize: bool, prompt: bool) -> Any:
    conversation = [dict(message) for message in messages]
    try:
        return tokenizer.apply_chat_template(
            conversation, tokenize=tokenize, add_generation_prompt=prompt, return_dict=False
        )
    except Exception as error:  # a template may raise whatever it likes about the messages
        raise _unsupported(f"it refuses these messages ({error})") from error


def _plain(content: object) -> str:
    """A message's text; OpenAI's list of text parts is joined."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def _unsupported(problem: str) -> FineryError:
    return FineryError(
        Reason.UNSUPPORTED,
        f"This chat template can't be used for this conversation: {problem}. "
        "Check the row's roles and texts, or use another model.",
    )
