"""Drawing rows by their numbers: a validation part first, then N of the rest, all by a seed."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """Disjoint numbers of training and validation rows; a training row may occur more than once, a validation row not.

    Every one of ``repeats`` whole passes has all training rows; ``rest`` of them were drawn once more.
    """

    train: array[int]
    val: array[int]
    repeats: int
    rest: int


def draw(rows: int, count: int | None, test_ratio: float, rng: random.Random) -> Sample:
    """Draw ``count`` (None: all) of the rows with the numbers 0 to ``rows`` - 1, ``test_ratio`` of them for validation.

    Validation rows are taken first, at least one if the ratio is above 0 and there are two rows; they count towards
    ``count`` and never occur in training. A count beyond the number of rows repeats all of them, then draws the rest.
    Memory: 8 bytes a row.
    """
    shuffled = array("q", range(rows))
    rng.shuffle(shuffled)
    total = rows if count is None else count
    val_size = _validation_size(min(total, rows), test_ratio)
    val, pool = shuffled[:val_size], shuffled[val_size:]
    repeats, rest = divmod(total - val_size, len(pool)) if pool else (0, 0)
    train = pool * repeats
    train.extend(pool[index] for index in rng.sample(range(len(pool)), rest))
    return Sample(train, val, repeats, rest)


def _validation_size(available: int, ratio: float) -> int:
    if ratio <= 0 or available < 2:
        return 0
    return min(max(int(available * ratio), 1), available - 1)
