"""One service process owns a job database at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from finery_shared.errors import FineryError, Reason


class OwnerLock:
    """An exclusive lock on a state directory. The kernel frees it with the process, however that ends."""

    def __init__(self, state: Path) -> None:
        self._path = state / "owner.lock"
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock. Raises ALREADY_RUNNING, naming the process that has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Not inherited by workers: one that outlives the service must not keep the next service out.
        file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = file.read().strip() or "unknown"
            file.close()
            message = (
                f"Process {owner} runs this service on {self._path.parent} already. Wait until it has ended, stop it, "
                "or set another FINERY_HOME."
            )
            raise FineryError(Reason.ALREADY_RUNNING, message, pid=owner) from error
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None
