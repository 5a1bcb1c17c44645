"""Conversations from a data set's files, one at a time: checked, placeholders filled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finery_shared.datasets.conversation import Conversation, Turn, language_of
from finery_shared.datasets.files import RawRow, read_file, row_error
from finery_shared.datasets.formats import ReadRow, RowProblem, read_fields
from finery_shared.datasets.identity import FLAGS, Identity, surviving_placeholder
from finery_shared.datasets.problems import TOO_DEEP
from finery_shared.datasets.source import Source
from finery_shared.errors import FineryError, Reason

Tick = Callable[[], None]
"""Called for every row that is read; may raise to end the reading."""


@dataclass
class Skipped:
    """Rows that could not be used: how many, and why the first one."""

    count: int = 0
    first: FineryError | None = None

    def add(self, error: FineryError) -> None:
        """Count one."""
        self.count += 1
        self.first = self.first or error


@dataclass(frozen=True)
class RowReader:
    """Reads a data set, as often as is asked, always the same rows; ``system`` goes in front of rows without one."""

    source: Source
    files: tuple[Path, ...]
    identity: Identity
    system: str = ""
    stamps: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamps", self._stamps())

    def rows(self, skipped: Skipped | None = None, tick: Tick = lambda: None) -> Iterator[Conversation]:
        """Every usable row. One that can't be used is an error, except in a hub's data set, where it is skipped.

        Raises what `read_file` raises, DATASET_ROW_INVALID and PLACEHOLDER_SURVIVED.
        """
        skipped = skipped if skipped is not None else Skipped()
        for file in self.files:
            self._check_unchanged()
            for raw in read_file(file):
                tick()
                try:
                    yield to_conversation(raw, self.identity).with_system(self.system)
                except (RowProblem, RecursionError) as caught:
                    problem = caught if isinstance(caught, RowProblem) else RowProblem(TOO_DEEP)
                    error = row_error(raw.file, raw.place, str(problem))
                    if self.source.trusted:
                        raise error from problem
                    skipped.add(error)
        self._check_unchanged()

    def digest(self) -> str:
        """A hash over the bytes of the files and of what is filled in."""
        state = hashlib.sha256(repr((self.identity, self.system, self.source.trusted)).encode())
        for file in self.files:
            with file.open("rb") as stream:
                state.update(hashlib.file_digest(stream, "sha256").digest() + file.suffix.encode())
        self._check_unchanged()
        return state.hexdigest()

    def _stamps(self) -> tuple[tuple[int, int], ...]:
        states = [file.stat() for file in self.files]
        return tuple((state.st_size, state.st_mtime_ns) for state in states)

    def _check_unchanged(self) -> None:
        if self._stamps() != self.stamps:
            raise FineryError(
                Reason.DATASET_ROW_INVALID,
                f"{self.source.path} changed while it was read: leave data files alone while a job runs, and start "
                "again.",
                path=str(self.source.path),
            )


def to_conversation(raw: RawRow, identity: Identity) -> Conversation:
    """One row; raises RowProblem where its format is the trouble, PLACEHOLDER_SURVIVED."""
    row = read_fields(raw.fields)
    row_lang = raw.fields.get("lang")
    origin = f"{raw.file.name}, {raw.place}"
    filled = tuple(_fill(turn, row_lang, identity, origin) for turn in row.turns)
    lang = row_lang if row_lang in ("zh", "en") else language_of(_last_text(row))
    tag = raw.fields.get("tag")
    return Conversation(
        messages=tuple(turn.message() for turn in filled),
        lang=lang,
        tag=tag if isinstance(tag, str) else "",
        origin=origin,
        tools=row.tools,
        text=_fill(Turn("", row.text), row_lang, identity, origin).content if row.text else "",
    )


def _last_text(row: ReadRow) -> str:
    return row.text or next((turn.content for turn in reversed(row.turns) if turn.content), "")


def _fill(turn: Turn, row_lang: object, identity: Identity, origin: str) -> Turn:
    if "{{" not in turn.content:
        return turn
    declared = turn.lang or row_lang
    lang = "zh" if declared == "zh" else "en" if declared == "en" else language_of(turn.content)
    text = identity.fill(turn.content, lang)
    survivor = surviving_placeholder(text)
    if survivor is not None:
        flag = FLAGS.get(survivor.strip("{} "))
        remedy = f"give its value with {flag}" if flag else "only {{NAME}} and {{AUTHOR}} are filled; remove it"
        raise FineryError(
            Reason.PLACEHOLDER_SURVIVED,
            f"{origin}: the placeholder {survivor} would be learned as it stands: {remedy}.",
            placeholder=survivor,
            place=origin,
        )
    return Turn(turn.role, text, turn.lang, turn.tool_calls, turn.tool_call_id, turn.name)
