"""Rows to one batch of tensors, without padding and without computing a shared beginning twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import pad

if TYPE_CHECKING:
    from finery_trainer.recipes.rows import Row

IGNORED = -100

_BEGINNING = 12
"""Tokens by which beginnings are told apart: what a chat template puts before a system prompt, and some of that."""


def pack(rows: Sequence[Row]) -> dict[str, Any]:
    """Lay the rows of a batch one after the other in a single sequence, (1, T); each row by itself is what is computed.

    Rows that start alike (the same system prompt) stand together and get that part once, and every row continues it:
    positions go on from it, and ``segments`` (see `attention`) keeps the rows apart. ``logits_to_keep`` has the model
    compute logits at the positions whose next token is learned, and nowhere else. Loss and gradients are those of the
    rows by themselves.
    """
    parts = [_laid_out(group, shared_prefix(group)) for group in alike(rows)]
    offsets = np.cumsum([0, *(part["input_ids"].shape[1] for part in parts)]).tolist()
    joined = {name: torch.cat([part[name] for part in parts], -1) for name in ("input_ids", "position_ids", "labels")}
    kept = [part["logits_to_keep"] + offset for part, offset in zip(parts, offsets, strict=False)]
    segments = tuple(group for part in parts for group in part["segments"])
    return joined | {"segments": segments, "logits_to_keep": torch.cat(kept), "shift_labels": joined["labels"]}


def pack_apart(
    rows: Sequence[Row], tokens: int, predictions: int | None = None, boundaries: int | None = None
) -> dict[str, Any]:
    """The same with every row whole, for kernels that read rows of any lengths (``starts``: where each begins, int32).

    Tokens of no row fill T up to ``tokens``; they see each other alone. If given, ``predictions`` is the number of
    positions that predict, of which those that are filled in have no label, and ``boundaries`` that of ``starts``.
    """
    batch = _laid_out(rows, 0)
    lengths = batch["segments"][0][1:]
    filling = tokens - batch["input_ids"].shape[1]
    if filling:
        lengths = (*lengths, filling)
        batch["input_ids"] = pad(batch["input_ids"], (0, filling))
        batch["position_ids"] = torch.cat([batch["position_ids"], torch.arange(filling)[None]], 1)
    missing = 0 if predictions is None else predictions - batch["labels"].shape[1]
    if missing:
        batch["logits_to_keep"] = pad(batch["logits_to_keep"], (0, missing))
        batch["labels"] = batch["shift_labels"] = pad(batch["labels"], (0, missing), value=IGNORED)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    if boundaries is not None:
        starts = pad(starts, (0, boundaries - starts.numel()), value=tokens)  # rows of no tokens
    return batch | {"segments": ((0, *lengths),), "starts": starts.to(torch.int32)}


def alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in groups that begin with the same few tokens; those that begin like no other are a group together."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.input_ids[:_BEGINNING]), []).append(row)
    single = [group[0] for group in groups.values() if len(group) == 1]
    several = [group for group in groups.values() if len(group) > 1]
    return [*several, single] if single else several


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
    ids = [np.asarray(row.input_ids, dtype=np.int64)[prefix:] for row in rows]
    lengths = [len(part) for part in ids]
    # Whatever is learned has a token before it: the row's own, or the last of the shared beginning.
    learned_at, targets = [], []
    begin = prefix
    for row, length in zip(rows, lengths, strict=True):
        labels = np.asarray(row.labels, dtype=np.int64)[prefix:]
        at = np.flatnonzero(labels != IGNORED)
        at = at[at + prefix > 0]
        learned_at.append(np.where(at == 0, prefix - 1, begin + at - 1))
        targets.append(labels[at])
        begin += length
    start = np.asarray(rows[0].input_ids, dtype=np.int64)[:prefix]
    positions = [np.arange(prefix), *(np.arange(prefix, prefix + length) for length in lengths)]
    labels = torch.from_numpy(np.concatenate(targets))[None]
    return {
        "input_ids": torch.from_numpy(np.concatenate([start, *ids]))[None],
        "position_ids": torch.from_numpy(np.concatenate(positions))[None],
        "segments": ((prefix, *lengths),),
        "logits_to_keep": torch.from_numpy(np.concatenate(learned_at)),
        "labels": labels,
        "shift_labels": labels,
    }


def _first_label(row: Row) -> int:
    return next((i for i, label in enumerate(row.labels) if label != IGNORED), len(row.labels))
