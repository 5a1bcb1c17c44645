"""FINERY_HOME: where models, job databases, logs and the addresses of running processes are kept."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Announcement:
    """A running process: what `finery` commands need to find it, and to know that it still lives."""

    service: str
    address: str
    pid: int
    start_time: int


@dataclass(frozen=True)
class Home:
    """The layout of one FINERY_HOME directory."""

    root: Path

    @classmethod
    def from_env(cls) -> Home:
        """The directory named by FINERY_HOME, else ~/.finery."""
        return cls(Path(os.environ.get("FINERY_HOME") or "~/.finery").expanduser().absolute())

    @property
    def models(self) -> Path:
        """The local model store: one Hugging Face directory for each model type."""
        return Path(os.environ.get("FINERY_MODEL_STORE") or self.root / "models").expanduser().absolute()

    def service(self, name: str) -> Path:
        """The state directory of one service, made on first use, readable by its owner alone."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path

    def announce(self, service: str, address: str) -> Path:
        """Write this process's address to run/<service>.json, atomically."""
        run = self.service("run")
        entry = Announcement(service, address, os.getpid(), process_start_time(os.getpid()) or 0)
        with tempfile.NamedTemporaryFile("w", dir=run, delete=False, suffix=".tmp") as file:
            json.dump(asdict(entry), file)
        path = run / f"{service}.json"
        os.replace(file.name, path)
        return path

    def withdraw(self, service: str) -> None:
        """Remove this process's announcement; another process's is left alone."""
        entry = self.announced(service)
        if entry is not None and entry.pid == os.getpid():
            (self.root / "run" / f"{service}.json").unlink(missing_ok=True)

    def announced(self, service: str) -> Announcement | None:
        """The announced process, if it still lives (the pid was not given to another process since)."""
        try:
            entry = Announcement(**json.loads((self.root / "run" / f"{service}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        return entry if process_start_time(entry.pid) == entry.start_time else None


def process_start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process or it is a zombie.

    A pid is reused, a pair of pid and start time is not. Field 22 of proc_pid_stat(5).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
