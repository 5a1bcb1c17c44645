"""Why an engine's process failed, told to the service: vLLM itself only says that it did."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LAST_WORDS = "FINERY_ENGINE_LAST_WORDS"
"""Variable with the file that an engine's process writes its exception to."""


class LastWordsHandler(logging.Handler):
    """Writes the exception of a log record to the file; named in logging.json."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first exception: later ones follow from it."""
        path = os.environ.get(LAST_WORDS)
        error = record.exc_info[1] if record.exc_info else None
        if not path or error is None:
            return
        try:
            with suppress(FileExistsError), Path(path).open("x", encoding="utf-8") as file:
                file.write(str(error) or type(error).__name__)
        except OSError:
            self.handleError(record)


@dataclass(frozen=True)
class LastWords:
    """The service's side of the file."""

    path: Path | None

    @classmethod
    def from_env(cls) -> LastWords:
        """By this process's environment."""
        path = os.environ.get(LAST_WORDS)
        return cls(Path(path) if path else None)

    def forget(self) -> None:
        """Before a start: what is there is of an earlier one."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def read(self) -> str:
        """What was written since; empty if nothing was."""
        try:
            return self.path.read_text(encoding="utf-8").strip() if self.path is not None else ""
        except FileNotFoundError:
            return ""
