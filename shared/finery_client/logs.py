"""A service's log file, and what its last lines say about why it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO

from finery_shared.errors import FineryError, Reason

_LARGEST = 16 * 2**20


def open_log(path: Path) -> IO[bytes]:
    """The file to append to; one of more than 16 MiB is put aside first, in place of the one before it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.exists() and path.stat().st_size > _LARGEST:
        path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def last_words(path: Path, offset: int) -> FineryError:
    """Why a process ended, from what it wrote after ``offset`` bytes of its log.

    A start that was refused leaves a line with reason and message; else the last line that says something is taken.
    """
    lines = _lines(path, offset)
    for line in reversed(lines):
        entry = _entry(line)
        reason = entry.get("reason")
        if isinstance(entry.get("error"), str) and reason in Reason.__members__:
            return FineryError(Reason(str(reason)), str(entry["error"]))
    last = _readable(lines[-1]) if lines else "it wrote nothing"
    return FineryError(Reason.SERVICE_UNAVAILABLE, last)


def _lines(path: Path, offset: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(min(size, max(offset, size - 65536)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]


def _entry(line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _readable(line: str) -> str:
    entry = _entry(line)
    words = [str(entry[key]) for key in ("event", "error", "exception") if entry.get(key)]
    return ": ".join(words).strip().splitlines()[-1] if words else line
