"""From drawn rows to rows to train on: tokenized, fitted, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from finery_shared.datasets import Selection
from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.row_cache import RowCache, content_key
from finery_trainer.recipes.row_file import BrokenRowFile, ChosenRows, RowFile, write_rows
from finery_trainer.recipes.rows import LeftOut, Why, require_rows
from finery_trainer.recipes.tokenizing import Tokenizing, processes_for, tokenize

_WORDS = {
    Why.TOO_LONG: "longer than --max_length",
    Why.NOTHING_TO_LEARN: "without a token to learn",
    Why.NOT_RENDERED: "not rendered by the chat template",
}


@dataclass(frozen=True)
class Dropped:
    """Rows of one data set that are left out for one reason; ``example`` tells of the first one."""

    dataset: str
    why: Why
    count: int
    example: str

    def __str__(self) -> str:
        return f"{self.dataset}: {self.count} rows left out, {_WORDS[self.why]} ({self.example})"


@dataclass(frozen=True)
class PreparedData:
    """Rows for training and evaluation, in their order, and what became of the others.

    ``tokens`` is the number in all training rows, ``longest`` that in the longest row before any was cut or left out;
    ``cut`` counts rows that lost their beginning.
    """

    train: ChosenRows
    val: ChosenRows
    dropped: tuple[Dropped, ...]
    tokens: int
    longest: int
    cut: int
    reports: tuple[str, ...]

    @property
    def left_out(self) -> int:
        """Rows that were drawn and are not used."""
        return sum(dropped.count for dropped in self.dropped)

    def lines(self) -> list[str]:
        """What there is, in words: each data set, each reason to leave rows out, the sum."""
        cut = f", {self.cut} cut to --max_length" if self.cut else ""
        total = (
            f"{len(self.train)} rows to train on ({self.tokens} tokens), {len(self.val)} to evaluate on, "
            f"{self.left_out} left out{cut}; the longest has {self.longest} tokens"
        )
        return [*self.reports, *map(str, self.dropped), total]

    def figures(self) -> dict[str, float]:
        """The counts by name, for metrics and manifests; reasons and cuts only where there are any."""
        counts = Counter(
            rows_train=len(self.train), rows_val=len(self.val), rows_left_out=self.left_out, tokens_train=self.tokens
        )
        for dropped in self.dropped:
            counts[f"rows_{dropped.why}"] += dropped.count
        if self.cut:
            counts["rows_cut"] = self.cut
        return {name: float(count) for name, count in counts.items()}

    def metrics(self) -> dict[str, float]:
        """`figures`, and what each data set lost for which reason."""
        each = {f"rows_{dropped.why}/{dropped.dataset}": float(dropped.count) for dropped in self.dropped}
        return {**self.figures(), **each}


def prepare(
    selection: Selection,
    how: Tokenizing,
    cache: RowCache,
    tick: Callable[[int], None] = lambda _done: None,
) -> PreparedData:
    """Tokenize the rows of a selection, or find them in the cache.

    Raises UNSUPPORTED for a row of the user's own that the template can't render, naming where it stands, and
    DATASET_EMPTY when nothing is left to train on.
    """
    key = content_key(selection.digest(), how.tokenizer, how.max_length, how.strategy)

    def make(path: Path) -> None:
        rows = tokenize(how, selection.rows(), processes_for(len(selection)), tick)
        write_rows(path, rows)

    try:
        file = RowFile(cache.get(key, make))
    except BrokenRowFile:
        cache.drop(key)
        file = RowFile(cache.get(key, make))
    prepared = _prepared(selection, file)
    require_rows(len(prepared.train), prepared.longest, prepared.left_out, how.max_length)
    return prepared


def _prepared(selection: Selection, file: RowFile) -> PreparedData:
    train, val = (np.asarray(numbers, dtype=np.int64) for numbers in (selection.train, selection.val))
    chosen = ChosenRows(file, train[file.used[train]])
    drawn = np.concatenate([train, val])
    return PreparedData(
        train=chosen,
        val=ChosenRows(file, val[file.used[val]]),
        dropped=_dropped(selection, file, drawn),
        tokens=int(file.lengths[train[file.used[train]]].sum()),
        longest=int(file.original_lengths.max(initial=0)),
        cut=int(np.sum(file.used[drawn] & (file.original_lengths[drawn] > file.lengths[drawn]))),
        reports=tuple(map(str, selection.report)),
    )


def _dropped(selection: Selection, file: RowFile, drawn: np.ndarray) -> tuple[Dropped, ...]:
    times = np.bincount(drawn, minlength=len(file))
    ends = list(accumulate(map(len, selection.parts)))
    counts: Counter[tuple[int, Why]] = Counter()
    examples: dict[tuple[int, Why], str] = {}
    for number, row in file.left_out():
        part = int(np.searchsorted(ends, number, side="right"))
        if row.why is Why.NOT_RENDERED and selection.parts[part].trusted:
            raise FineryError(Reason.UNSUPPORTED, row.problem)
        counts[part, row.why] += int(times[number])
        examples.setdefault((part, row.why), _example(row))
    return tuple(
        Dropped(selection.parts[part].dataset, why, count, examples[part, why])
        for (part, why), count in sorted(counts.items())
    )


def _example(row: LeftOut) -> str:
    return f"the first: {row.problem}" if row.problem else f"the first has {row.length} tokens"
