import random
from collections import Counter

import pytest

from finery_shared.datasets.sampling import draw

ROWS = 100


def test_all_rows_once() -> None:
    sample = draw(ROWS, None, 0.0, random.Random(1))
    assert sorted(sample.train) == list(range(100))
    assert list(sample.train) != list(range(100))
    assert len(sample.val) == 0


def test_fewer_rows_are_drawn_without_replacement() -> None:
    sample = draw(ROWS, 30, 0.0, random.Random(1))
    assert len(set(sample.train)) == 30


def test_more_rows_repeat_all_then_draw_the_rest() -> None:
    sample = draw(ROWS, 250, 0.0, random.Random(1))
    assert (sample.repeats, sample.rest) == (2, 50)
    counts = Counter(sample.train)
    assert len(counts) == 100
    assert Counter(counts.values()) == {2: 50, 3: 50}


@pytest.mark.parametrize(("count", "val"), [(None, 5), (100, 5), (40, 2), (500, 5), (10, 1), (2, 1), (1, 0)])
def test_validation_rows_count_towards_n_and_are_never_trained_on(count: int | None, val: int) -> None:
    sample = draw(ROWS, count, 0.05, random.Random(1))
    assert len(sample.val) == val
    assert len(sample.train) + len(sample.val) == (count or 100)
    assert not set(sample.train) & set(sample.val)
    assert len(set(sample.val)) == val


def test_the_seed_decides() -> None:
    assert draw(ROWS, 30, 0.1, random.Random(1)) == draw(ROWS, 30, 0.1, random.Random(1))
    assert draw(ROWS, 30, 0.1, random.Random(1)) != draw(ROWS, 30, 0.1, random.Random(2))


def test_one_row_is_not_split() -> None:
    sample = draw(1, 3, 0.5, random.Random(1))
    assert (list(sample.train), list(sample.val)) == ([0, 0, 0], [])


def test_a_high_ratio_leaves_a_row_to_train_on() -> None:
    sample = draw(3, None, 0.99, random.Random(1))
    assert (len(sample.train), len(sample.val)) == (1, 2)
