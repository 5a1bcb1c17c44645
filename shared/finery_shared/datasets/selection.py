"""Which rows a run uses, and in what order: numbers, so that no more than one row at a time has to be in memory."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Protocol

from finery_shared.datasets.conversation import Conversation
from finery_shared.datasets.reading import RowReader
from finery_shared.errors import FineryError, Reason


@dataclass(frozen=True)
class DatasetReport:
    """What one data set argument gave: rows read, rows skipped (only a hub's), rows for training and validation.

    ``repeated`` says how often the most frequent training row occurs; ``repeats`` and ``rest`` how that came about:
    whole passes over the rows, and rows drawn once more. ``problem`` tells of the first row that was skipped.
    """

    dataset: str
    available: int
    skipped: int
    train: int
    val: int
    repeated: int
    repeats: int = 0
    rest: int = 0
    problem: str = ""

    def __str__(self) -> str:
        """In a sentence, for people."""
        parts = [f"{self.dataset}: {self.available} rows, {self.train} to train on, {self.val} to evaluate on"]
        if self.repeated > 1:
            more = f", and {self.rest} of them once more" if self.rest else ""
            times = {1: "once", 2: "twice"}.get(self.repeats, f"{self.repeats} times")
            parts.append(f"fewer rows than asked for: all of them {times}{more}")
        if self.skipped:
            parts.append(f"{self.skipped} rows skipped, the first: {self.problem}")
        return "; ".join(parts)


class Part(Protocol):
    """The distinct rows that one data set contributes."""

    @property
    def dataset(self) -> str:
        """The argument that names the data set."""

    @property
    def trusted(self) -> bool:
        """Whether every row has to be right: a hub's may be left out."""

    def __len__(self) -> int:
        """How many rows there are."""

    def rows(self) -> Iterator[Conversation]:
        """All of them, in the order of their numbers."""

    def digest(self) -> str:
        """A hash of what the rows depend on."""


@dataclass(frozen=True)
class FilePart:
    """Rows that are read from their files each time. ``wanted`` are their numbers among the usable rows, ascending."""

    dataset: str
    reader: RowReader
    wanted: array[int]

    def __len__(self) -> int:
        return len(self.wanted)

    @property
    def trusted(self) -> bool:
        """Whether the files are the user's or ours."""
        return self.reader.source.trusted

    def rows(self) -> Iterator[Conversation]:
        """Read the files up to the last wanted row; raises DATASET_ROW_INVALID if they changed since the drawing."""
        wanted = iter(self.wanted)
        due = next(wanted, None)
        for number, row in enumerate(self.reader.rows()) if due is not None else ():
            if number == due:
                yield row
                if (due := next(wanted, None)) is None:
                    return
        if due is not None:
            raise FineryError(
                Reason.DATASET_ROW_INVALID,
                f"{self.reader.source.path} has fewer rows than when it was first read: leave data files alone while "
                "a job runs, and start again.",
                path=str(self.reader.source.path),
            )

    def digest(self) -> str:
        """Over the bytes of the files, what is filled in, and the rows' numbers."""
        state = hashlib.sha256(self.reader.digest().encode())
        state.update(self.wanted.tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class MadePart:
    """Rows that were made, and are kept."""

    dataset: str
    made: tuple[Conversation, ...]
    trusted: bool = True

    def __len__(self) -> int:
        return len(self.made)

    def rows(self) -> Iterator[Conversation]:
        """The rows."""
        return iter(self.made)

    def digest(self) -> str:
        """Over the rows themselves."""
        state = hashlib.sha256()
        for row in self.made:
            state.update(json.dumps(asdict(row), ensure_ascii=False, sort_keys=True).encode() + b"\n")
        return state.hexdigest()


@dataclass(frozen=True)
class Selection:
    """The rows of a run. ``train`` and ``val`` are numbers of rows in `rows`, in the order in which they are used.

    A number may occur more than once in ``train``. Nothing but the numbers is held in memory: 8 bytes a row.
    """

    parts: tuple[Part, ...]
    train: array[int]
    val: array[int]
    report: tuple[DatasetReport, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def rows(self) -> Iterator[Conversation]:
        """The distinct rows, in the order of their numbers, read afresh."""
        for part in self.parts:
            yield from part.rows()

    def digest(self) -> str:
        """A hash of what `rows` depends on; reads every file."""
        state = hashlib.sha256()
        for part in self.parts:
            state.update(part.digest().encode())
        return state.hexdigest()


def number_rows(available: int, *drawn: Sequence[int]) -> tuple[array[int], list[array[int]]]:
    """The distinct drawn rows, ascending, and each draw as positions among these."""
    flags = bytearray(available)
    for draw in drawn:
        for index in draw:
            flags[index] = 1
    position = array("q", accumulate(flags, initial=0))
    wanted = array("q", (index for index, flag in enumerate(flags) if flag))
    return wanted, [array("q", (position[index] for index in draw)) for draw in drawn]
