"""Rows to one batch of tensors, without padding and without computing a shared beginning twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finery_trainer.recipes.rows import Row

IGNORED = -100


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """Lay the rows of a batch one after the other in a single sequence, (1, T); each row by itself is what is computed.

    Rows that start alike (the same system prompt) get that part once, and every row continues it: positions go on from
    it, and ``segments`` (see `attention`) keeps the rows apart. ``logits_to_keep`` has the model compute logits at the
    positions whose next token is learned, and nowhere else. Loss and gradients are those of the rows by themselves.
    """
    prefix = shared_prefix(rows)
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


def shared_prefix(rows: Sequence[Row]) -> int:
    """Length of the longest common beginning of all rows in which nothing is learned."""
    limit = min(_first_label(row) for row in rows)
    first = rows[0].input_ids
    return next((i for i in range(limit) if any(row.input_ids[i] != first[i] for row in rows)), limit)


def _first_label(row: Row) -> int:
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row.labels))
