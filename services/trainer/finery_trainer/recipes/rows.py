"""Conversations to token ids and labels, by the model's own chat template."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from finery_shared.datasets import Conversation
from finery_shared.errors import FineryError, Reason
from finery_shared.templates import ChatTokenizer, Rendered, render_row, truncate_left

IGNORED = -100

TruncationStrategy = Literal["delete", "truncation_left"]


@dataclass(frozen=True)
class Row:
    """One tokenized conversation. ``labels`` are the ids to be learned, -100 elsewhere; not shifted."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


class Why(StrEnum):
    """Why a row is left out."""

    TOO_LONG = "too_long"
    NOTHING_TO_LEARN = "nothing_to_learn"
    NOT_RENDERED = "not_rendered"


@dataclass(frozen=True)
class LeftOut:
    """A row that is not used. ``length`` is its number of tokens, 0 if it could not be rendered."""

    why: Why
    length: int
    problem: str = ""


@dataclass(frozen=True)
class Fitted:
    """A row that is used: its ids, which of them are learned, and the number of tokens before any were cut off."""

    input_ids: tuple[int, ...]
    learned: tuple[int, ...]
    length: int


def fit(
    tokenizer: ChatTokenizer, conversation: Conversation, max_length: int, strategy: TruncationStrategy
) -> Fitted | LeftOut:
    """Render a conversation, and cut it or leave it out when it has more than ``max_length`` tokens."""
    try:
        rendered = render_row(tokenizer, conversation)
        length = len(rendered.token_ids)
        if length > max_length:
            if strategy == "delete":
                return LeftOut(Why.TOO_LONG, length)
            rendered = truncate_left(tokenizer, conversation, rendered, max_length)
    except FineryError as error:
        return LeftOut(Why.NOT_RENDERED, 0, f"{conversation.origin}: {error.message}")
    if not learns(rendered):
        return LeftOut(Why.NOTHING_TO_LEARN, length)
    return Fitted(rendered.token_ids, rendered.loss_mask, length)


def learns(rendered: Rendered) -> bool:
    """Whether there is a token to learn: the first one follows nothing."""
    return any(rendered.loss_mask[1:])


def require_rows(rows: int, longest: int, left_out: int, max_length: int) -> None:
    """Raise DATASET_EMPTY when no row is left to train on."""
    if rows == 0:
        raise FineryError(
            Reason.DATASET_EMPTY,
            f"None of the {left_out} rows can be trained on with --max_length {max_length} (the longest has "
            f"{longest} tokens): raise it, shorten the rows, or pass --truncation_strategy truncation_left.",
        )
