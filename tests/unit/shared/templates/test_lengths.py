"""What is left of rows that are too long."""

from typing import Any

import pytest

from finery_shared.datasets.conversation import Conversation, Message
from finery_shared.templates import ChatTokenizer, Rendered, render_row, truncate_left

LONG = " ".join(f"word{number}" for number in range(60))


def chat(*texts: str, system: str = "") -> Conversation:
    turns = [Message(role="assistant" if at % 2 else "user", content=text) for at, text in enumerate(texts)]
    return Conversation(tuple(turns), "en").with_system(system)


def truncated(tokenizer: ChatTokenizer, row: Conversation, max_length: int) -> Rendered:
    whole = render_row(tokenizer, row)
    assert len(whole.token_ids) > max_length
    left = truncate_left(tokenizer, row, whole, max_length)
    assert len(left.token_ids) == len(left.loss_mask) <= max_length
    assert any(left.loss_mask[1:])
    return left


def text_of(tokenizer: Any, rendered: Rendered) -> str:
    return str(tokenizer.decode(list(rendered.token_ids)))


def learned(tokenizer: Any, rendered: Rendered) -> str:
    pairs = zip(rendered.token_ids, rendered.loss_mask, strict=True)
    return str(tokenizer.decode([token for token, learn in pairs if learn]))


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_earliest_exchanges_go_whole(tokenizer: ChatTokenizer, system: str) -> None:
    row = chat("One?", LONG, "Two?", "2", "Three?", "3", system=system)
    left = truncated(tokenizer, row, 80)
    shorter = chat("Two?", "2", "Three?", "3", system=system)
    assert left == render_row(tokenizer, shorter)
    assert truncated(tokenizer, row, len(left.token_ids) - 1) == render_row(
        tokenizer, chat("Three?", "3", system=system)
    )


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_the_last_question_loses_its_beginning_and_keeps_the_system_prompt(
    tokenizer: ChatTokenizer, system: str
) -> None:
    left = truncated(tokenizer, chat("First?", "1", LONG, "The answer.", system=system), 60)
    whole = render_row(tokenizer, chat(LONG, "The answer.", system=system))
    assert len(left.token_ids) == 60
    assert learned(tokenizer, left) == "The answer.<|im_end|>"
    head = text_of(tokenizer, whole).index("word0")
    text = text_of(tokenizer, left)
    assert text[:head] == text_of(tokenizer, whole)[:head]
    assert text[head:] in text_of(tokenizer, whole)
    assert text.endswith("word59<|im_end|>\n<|im_start|>assistant\nThe answer.<|im_end|>\n")


def test_an_answer_that_alone_is_too_long_loses_its_beginning(tokenizer: ChatTokenizer) -> None:
    row = chat("Question?", LONG)
    left, whole = truncated(tokenizer, row, 20), render_row(tokenizer, row)
    assert left.token_ids == whole.token_ids[-20:]
    assert learned(tokenizer, left).endswith("word59<|im_end|>")


def test_plain_text_loses_its_beginning(tokenizer: ChatTokenizer) -> None:
    row = Conversation((), "en", text=LONG)
    left, whole = truncated(tokenizer, row, 20), render_row(tokenizer, row)
    assert (left.token_ids, left.loss_mask) == (whole.token_ids[-20:], (1,) * 20)


@pytest.mark.parametrize("max_length", range(8, 90, 3))
def test_every_length_leaves_something_to_learn(tokenizer: ChatTokenizer, max_length: int) -> None:
    row = chat("Some question about things?", "An answer of some length, too.", LONG, "The answer.", system="Be brief.")
    truncated(tokenizer, row, max_length)
