"""Drawing rows: a validation part first, then N of the rest, all by a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Sample(Generic[T]):
    """Disjoint training and validation rows; a training row may occur more than once, a validation row never."""

    train: tuple[T, ...]
    val: tuple[T, ...]


def draw(rows: Sequence[T], count: int | None, test_ratio: float, rng: random.Random) -> Sample[T]:
    """Draw ``count`` rows (None: all), ``test_ratio`` of them for validation.

    Validation rows are taken first, at least one if the ratio is above 0 and there are two rows; they count towards
    ``count`` and never occur in training. A count beyond the number of rows repeats all of them, then draws the rest.
    """
    shuffled = list(rows)
    rng.shuffle(shuffled)
    total = len(shuffled) if count is None else count
    val_size = _validation_size(min(total, len(shuffled)), test_ratio)
    val, pool = shuffled[:val_size], shuffled[val_size:]
    repeats, rest = divmod(total - val_size, len(pool)) if pool else (0, 0)
    train = pool * repeats + rng.sample(pool, rest)
    return Sample(tuple(train), tuple(val))


def _validation_size(available: int, ratio: float) -> int:
    if ratio <= 0 or available < 2:
        return 0
    return min(max(int(available * ratio), 1), available - 1)
