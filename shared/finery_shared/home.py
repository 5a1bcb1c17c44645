"""FINERY_HOME: where models, job databases, logs and the addresses of running processes are kept."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from finery_shared.errors import invalid


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
        """The state directory of one service, made on first use, readable by its owner alone.

        Raises INVALID_ARGUMENT if FINERY_HOME can't hold it.
        """
        path = self.root / name
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            what = f"{path} can't be made ({error.strerror})."
            raise invalid("FINERY_HOME", f"{what} Set it to a directory that this user may write to.") from error
        return path

    def announcement(self, service: str) -> Path:
        """Where `finery up` has a process announce itself: run/<service>.json."""
        return self.service("run") / f"{service}.json"


def announce(path: Path, service: str, address: str) -> None:
    """Write this process's address for others to find, atomically."""
    entry = Announcement(service, address, os.getpid(), process_start_time(os.getpid()) or 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, suffix=".tmp") as file:
        json.dump(asdict(entry), file)
    os.replace(file.name, path)


def announced(path: Path) -> Announcement | None:
    """The process that announced itself there, if it still lives (its pid was not given to another since)."""
    try:
        entry = Announcement(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return entry if process_start_time(entry.pid) == entry.start_time else None


def withdraw(path: Path) -> None:
    """Remove this process's announcement; another process's is left alone."""
    entry = announced(path)
    if entry is not None and entry.pid == os.getpid():
        path.unlink(missing_ok=True)


def split_paths(text: str) -> tuple[str, ...]:
    """The paths of a setting: a JSON list, or separated by colons. Raises ValueError."""
    if not text.startswith("["):
        return tuple(filter(None, text.split(os.pathsep)))
    try:
        paths = json.loads(text)
        if all(isinstance(path, str) for path in paths):
            return tuple(filter(None, paths))
    except ValueError:
        pass
    raise ValueError(f"expected paths between colons, or a JSON list of them, got {text!r}")


def join_paths(paths: Iterable[str | Path]) -> str:
    """A text that `split_paths` reads, whatever characters the paths have."""
    return json.dumps([str(path) for path in paths])


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
