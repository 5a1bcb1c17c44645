"""The data sets that have a name: one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
"""The rows that come with Finery."""


@dataclass(frozen=True)
class DatasetEntry:
    """A named data set: a shipped file, or its ids on the hubs."""

    name: str
    file: str | None = None
    hf_id: str | None = None
    ms_id: str | None = None

    @property
    def path(self) -> Path | None:
        """The shipped file, if there is one."""
        return DATA / self.file if self.file else None


ENTRIES: tuple[DatasetEntry, ...] = (
    DatasetEntry("self-cognition", file="self_cognition.jsonl"),
    DatasetEntry("general-zh", file="general_zh.jsonl"),
    DatasetEntry("general-en", file="general_en.jsonl"),
    DatasetEntry("alpaca-zh", hf_id="llm-wizard/alpaca-gpt4-data-zh", ms_id="AI-ModelScope/alpaca-gpt4-data-zh"),
    DatasetEntry("alpaca-en", hf_id="vicgalle/alpaca-gpt4", ms_id="AI-ModelScope/alpaca-gpt4-data-en"),
)


def find(name: str) -> DatasetEntry | None:
    """The data set of that name; case and ``_``/``-`` make no difference."""
    wanted = name.lower().replace("_", "-")
    return next((entry for entry in ENTRIES if entry.name == wanted), None)


def names() -> tuple[str, ...]:
    """Every registered name."""
    return tuple(entry.name for entry in ENTRIES)
