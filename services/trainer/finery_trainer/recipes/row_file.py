"""Tokenized rows in an Arrow file: written in batches, read where they lie."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from pyarrow import compute

from finery_trainer.recipes.rows import IGNORED, Fitted, LeftOut, Row, Why

_BATCH = 1024

_SCHEMA = pa.schema(
    [
        ("ids", pa.list_(pa.int32())),
        ("learned", pa.list_(pa.int8())),
        ("length", pa.int32()),
        ("why", pa.string()),
        ("problem", pa.string()),
    ]
)


def write_rows(path: Path, rows: Iterable[Fitted | LeftOut]) -> None:
    """Write rows, those that are left out among them; no more than a batch is in memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, _SCHEMA) as writer:
        rest = iter(rows)
        while batch := [_record(row) for row in islice(rest, _BATCH)]:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=_SCHEMA))


def _record(row: Fitted | LeftOut) -> dict[str, object]:
    if isinstance(row, LeftOut):
        return {"ids": [], "learned": [], "length": row.length, "why": row.why, "problem": row.problem}
    return {"ids": row.input_ids, "learned": row.learned, "length": row.length, "why": "", "problem": ""}


@dataclass(frozen=True)
class _Batch:
    """Views into the file: the ids of row i are ``ids[starts[i]:starts[i + 1]]``."""

    starts: np.ndarray
    ids: np.ndarray
    learned: np.ndarray


class BrokenRowFile(Exception):
    """A file that is not whole: the disk lost a part of it."""


class RowFile:
    """The rows of a file, by their numbers. Raises BrokenRowFile."""

    def __init__(self, path: Path) -> None:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (pa.ArrowInvalid, OSError) as error:
            raise BrokenRowFile(str(path)) from error
        self._table = table.select(["why", "length", "problem"])
        self.used: np.ndarray = compute.equal(table["why"], "").to_numpy()
        """Of each row, whether it is used."""
        self.lengths: np.ndarray = compute.list_value_length(table["ids"]).to_numpy()
        """Tokens of each row, as they are used; 0 if it is left out."""
        self.original_lengths: np.ndarray = table["length"].to_numpy()
        """Tokens of each row before any were cut off; 0 if it could not be rendered."""
        self._batches = [_views(batch) for batch in table.to_batches()]
        self._ends = np.cumsum([batch.num_rows for batch in table.to_batches()]).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def row(self, number: int) -> Row:
        """The row; empty if it is left out."""
        at = bisect_right(self._ends, number)
        batch = self._batches[at]
        first = number - (self._ends[at - 1] if at else 0)
        part = slice(batch.starts[first], batch.starts[first + 1])
        ids = batch.ids[part]
        labels = np.where(batch.learned[part] == 1, ids, IGNORED)
        return Row(tuple(ids.tolist()), tuple(labels.tolist()))

    def left_out(self) -> Iterator[tuple[int, LeftOut]]:
        """The rows that are not used, and their numbers."""
        for number in np.flatnonzero(~self.used).tolist():
            (row,) = self._table.slice(number, 1).to_pylist()
            yield number, LeftOut(Why(row["why"]), row["length"], row["problem"])


def _views(batch: pa.RecordBatch) -> _Batch:
    ids, learned = batch["ids"], batch["learned"]
    starts = ids.offsets.to_numpy()
    return _Batch(starts, ids.values.to_numpy(), learned.values.to_numpy())


class ChosenRows(Sequence[Row]):
    """Rows of a file in the order in which they are used; a row may occur more than once."""

    def __init__(self, file: RowFile, numbers: np.ndarray) -> None:
        self._file = file
        self._numbers = numbers
        self.lengths: Sequence[int] = file.lengths[numbers].tolist()
        """Tokens of each row."""

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | Sequence[Row]:
        if isinstance(index, slice):
            return ChosenRows(self._file, self._numbers[index])
        return self._file.row(int(self._numbers[index]))
