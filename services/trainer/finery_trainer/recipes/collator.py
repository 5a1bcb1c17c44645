"""Rows to one batch of tensors, without padding and without computing a shared beginning twice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finery_trainer.recipes.rows import Row

IGNORED = -100


class PackingCollator:
    """Lays the rows of a batch one after the other in a single sequence; each sees itself and the shared beginning.

    Rows that start alike (the same system prompt) get that part once, and every row continues it: positions go on from
    it and a 4-D mask hides the other rows. ``logits_to_keep`` has the model compute logits at the N positions whose
    next token is learned, and nowhere else. Loss and gradients are those of the rows by themselves.

    The mask takes length squared bytes, so a batch of more than ``max_packed`` tokens is padded in the usual way.
    """

    def __init__(self, pad_token_id: int, max_packed: int = 4096) -> None:
        self._pad_token_id = pad_token_id
        self._max_packed = max_packed

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """``input_ids`` (1, T) with what the model needs to read them, or a padded batch (rows, longest)."""
        prefix = shared_prefix(rows)
        length = prefix + sum(len(row.input_ids) - prefix for row in rows)
        return _pack(rows, prefix) if length <= self._max_packed else _pad(rows, self._pad_token_id)


def shared_prefix(rows: Sequence[Row]) -> int:
    """Length of the longest common beginning of all rows in which nothing is learned."""
    limit = min(_first_label(row) for row in rows)
    first = rows[0].input_ids
    return next((i for i in range(limit) if any(row.input_ids[i] != first[i] for row in rows)), limit)


def _first_label(row: Row) -> int:
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row.labels))


def _pack(rows: Sequence[Row], prefix: int) -> dict[str, Tensor]:
    ids = list(rows[0].input_ids[:prefix])
    positions = list(range(prefix))
    owners = [0] * prefix
    predictors: list[int] = []
    targets: list[int] = []
    for number, row in enumerate(rows, start=1):
        start = len(ids) - prefix
        for i in range(prefix, len(row.input_ids)):
            if row.labels[i] != IGNORED and i > 0:
                predictors.append(prefix - 1 if i == prefix else start + i - 1)
                targets.append(row.labels[i])
        ids.extend(row.input_ids[prefix:])
        positions.extend(range(prefix, len(row.input_ids)))
        owners.extend([number] * (len(row.input_ids) - prefix))
    labels = torch.tensor([targets])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "attention_mask": _visible(torch.tensor(owners)),
        "logits_to_keep": torch.tensor(predictors),
        "labels": labels,
        "shift_labels": labels,
    }


def _visible(owners: Tensor) -> Tensor:
    """Which token (column) each token (row) sees, (1, 1, T, T): what came before, of its own row or the beginning."""
    own = (owners[:, None] == owners[None, :]) | (owners[None, :] == 0)
    return torch.tril(own)[None, None]


def _pad(rows: Sequence[Row], pad_token_id: int) -> dict[str, Tensor]:
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_token_id)
    labels = torch.full((len(rows), longest), IGNORED)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        length = len(row.input_ids)
        ids[i, :length] = torch.tensor(row.input_ids)
        labels[i, :length] = torch.tensor(row.labels)
        mask[i, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}
