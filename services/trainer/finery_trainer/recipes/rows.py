"""Conversations to token ids and labels, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finery_shared.datasets import Conversation
from finery_shared.errors import FineryError, Reason
from finery_shared.templates import ChatTokenizer, Rendered, render, split_by_length


@dataclass(frozen=True)
class Row:
    """One tokenized conversation. ``labels`` are the ids to be learned, -100 elsewhere; not shifted."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class TokenizedRows:
    """Rows that fit, the number of those that were too long, and the length in tokens of the longest of all."""

    rows: tuple[Row, ...]
    too_long: int
    longest: int


def tokenize(tokenizer: ChatTokenizer, conversations: Sequence[Conversation], max_length: int) -> TokenizedRows:
    """Render conversations and leave out those with more than ``max_length`` tokens.

    Raises UNSUPPORTED for a row that the template can't render, naming where the row stands.
    """
    report = split_by_length([_render(tokenizer, row) for row in conversations], max_length)
    rows = tuple(Row(row.token_ids, tuple(row.labels())) for row in report.kept)
    return TokenizedRows(rows, len(report.too_long), report.longest)


def require_rows(tokenized: TokenizedRows, max_length: int) -> None:
    """Raise DATASET_EMPTY when nothing is left to train on."""
    if not tokenized.rows:
        raise FineryError(
            Reason.DATASET_EMPTY,
            f"All {tokenized.too_long} rows are longer than --max_length {max_length} (the longest has "
            f"{tokenized.longest} tokens): raise it, or shorten the rows.",
        )


def _render(tokenizer: ChatTokenizer, conversation: Conversation) -> Rendered:
    try:
        return render(tokenizer, conversation.messages)
    except FineryError as error:
        raise FineryError(error.reason, f"{conversation.origin}: {error.message}", detail=error.detail) from error
