"""Rows that are too long for ``--max_length``: told before training, not found during it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finery_shared.templates.render import Rendered


@dataclass(frozen=True)
class LengthReport:
    """Rendered rows by length. ``too_long`` are positions in the input of rows with more than ``max_length`` tokens."""

    kept: tuple[Rendered, ...]
    too_long: tuple[int, ...]
    longest: int
    max_length: int


def split_by_length(rows: Sequence[Rendered], max_length: int) -> LengthReport:
    """Keep the rows of at most ``max_length`` tokens and report the others; nothing is cut."""
    too_long = tuple(index for index, row in enumerate(rows) if len(row.token_ids) > max_length)
    kept = tuple(row for row in rows if len(row.token_ids) <= max_length)
    return LengthReport(kept, too_long, max((len(row.token_ids) for row in rows), default=0), max_length)
