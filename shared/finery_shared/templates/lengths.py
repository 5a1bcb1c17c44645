"""Rows that are too long for ``--max_length``."""

from __future__ import annotations

from itertools import takewhile

from finery_shared.datasets.conversation import Conversation, Message
from finery_shared.templates.render import Rendered, render, render_prompt
from finery_shared.templates.tokenizer import ChatTokenizer


def truncate_left(tokenizer: ChatTokenizer, row: Conversation, rendered: Rendered, max_length: int) -> Rendered:
    """The last ``max_length`` tokens at most of a row, and still a conversation where that is possible.

    The earliest exchanges are left out whole, so that what is left is rendered as if it had been the row. The beginning
    of the last question goes next; the system message stays in front of its rest. Where the answer alone is too long,
    and for plain text, the last tokens are all that is left.
    """
    if row.text:
        return _last(rendered, max_length)
    shorter = _without_exchanges(tokenizer, row, max_length)
    if len(shorter.token_ids) <= max_length:
        return shorter
    return _with_shorter_question(tokenizer, row, shorter, max_length) or _last(shorter, max_length)


def _without_exchanges(tokenizer: ChatTokenizer, row: Conversation, max_length: int) -> Rendered:
    """The row from the first question on from which it fits; from the last one if none does."""
    system = _system(row)
    questions = [at for at, message in enumerate(row.messages) if message["role"] == "user"]

    def rest(number: int) -> Rendered:
        return render(tokenizer, (*system, *row.messages[questions[number] :]), row.tools)

    low, high = 0, len(questions) - 1
    while low < high:
        middle = (low + high) // 2
        if len(rest(middle).token_ids) <= max_length:
            high = middle
        else:
            low = middle + 1
    return rest(low)


def _with_shorter_question(
    tokenizer: ChatTokenizer, row: Conversation, rendered: Rendered, max_length: int
) -> Rendered | None:
    """The row without the beginning of its question; None if more would have to go."""
    probe = render_prompt(tokenizer, (*_system(row), Message(role="user", content="?")), row.tools).token_ids
    prompt = rendered.token_ids[: rendered.loss_mask.index(1)]
    head = _common(probe, prompt)
    foot = _common(probe[::-1], prompt[::-1])
    cut = len(rendered.token_ids) - (max_length - head)
    if not head < cut <= len(prompt) - foot:
        return None
    ids, mask = rendered.token_ids, rendered.loss_mask
    return Rendered(rendered.text, ids[:head] + ids[cut:], mask[:head] + mask[cut:])


def _system(row: Conversation) -> tuple[Message, ...]:
    return row.messages[:1] if row.messages[0]["role"] == "system" else ()


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _last(rendered: Rendered, max_length: int) -> Rendered:
    return Rendered(rendered.text, rendered.token_ids[-max_length:], rendered.loss_mask[-max_length:])
