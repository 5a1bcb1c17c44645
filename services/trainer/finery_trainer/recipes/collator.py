"""Rows to one batch of tensors, without padding and without computing a shared beginning twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from finery_trainer.recipes.rows import Row

IGNORED = -100


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """Lay the rows of a batch one after the other in a single sequence, (1, T); each row by itself is what is computed.

    Rows that start alike (the same system prompt) get that part once, and every row continues it: positions go on from
    it, and ``segments`` (see `attention`) keeps the rows apart. ``logits_to_keep`` has the model compute logits at the
    positions whose next token is learned, and nowhere else. Loss and gradients are those of the rows by themselves.
    """
    return _laid_out(rows, shared_prefix(rows))


def pack_apart(rows: Sequence[Row], multiple: int) -> dict[str, Any]:
    """The same with every row whole, for kernels that read rows of any lengths (``starts``: where each begins, int32).

    Tokens of no row fill T up to a multiple of ``multiple``; they see each other alone, and nothing is learned there.
    """
    batch = _laid_out(rows, 0)
    tokens = batch["input_ids"].shape[1]
    filling = -tokens % multiple
    lengths = batch["segments"][1:]
    if filling:
        lengths = (*lengths, filling)
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.zeros((1, filling), dtype=torch.long)], 1)
        batch["position_ids"] = torch.cat([batch["position_ids"], torch.arange(filling)[None]], 1)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return batch | {"segments": (0, *lengths), "starts": starts.to(torch.int32)}


def shared_prefix(rows: Sequence[Row]) -> int:
    """Length of the longest common beginning of all rows in which nothing is learned."""
    limit = min(_first_label(row) for row in rows)
    first = rows[0].input_ids
    return next((i for i in range(limit) if any(row.input_ids[i] != first[i] for row in rows)), limit)


def learned(rows: Sequence[Row]) -> int:
    """Tokens that a batch's loss is a mean of: the first token of a row follows nothing."""
    return sum(label != IGNORED for row in rows for label in row.labels[1:])


def cut(rows: Sequence[Row], max_tokens: int) -> list[list[Row]]:
    """Rows in groups of at most ``max_tokens`` tokens and of about the same size; a longer row stands alone."""
    total = sum(len(row.input_ids) for row in rows)
    count = max(1, -(-total // max_tokens))
    ordered = sorted(rows, key=lambda row: -len(row.input_ids))
    while True:
        groups: list[list[Row]] = [[] for _ in range(min(count, len(rows)))]
        sizes = [0] * len(groups)
        for row in ordered:
            least = sizes.index(min(sizes))
            groups[least].append(row)
            sizes[least] += len(row.input_ids)
        if count >= len(rows) or max(sizes) <= max_tokens:
            return [group for group in groups if group]
        count += 1


def _laid_out(rows: Sequence[Row], prefix: int) -> dict[str, Any]:
    ids = list(rows[0].input_ids[:prefix])
    positions = list(range(prefix))
    predictors: list[int] = []
    targets: list[int] = []
    for row in rows:
        start = len(ids) - prefix
        for i in range(prefix, len(row.input_ids)):
            if row.labels[i] != IGNORED and i > 0:
                predictors.append(prefix - 1 if i == prefix else start + i - 1)
                targets.append(row.labels[i])
        ids.extend(row.input_ids[prefix:])
        positions.extend(range(prefix, len(row.input_ids)))
    labels = torch.tensor([targets])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "segments": (prefix, *(len(row.input_ids) - prefix for row in rows)),
        "logits_to_keep": torch.tensor(predictors),
        "labels": labels,
        "shift_labels": labels,
    }


def _first_label(row: Row) -> int:
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row.labels))
