"""Paths that were checked when that which names them was created."""

from __future__ import annotations

from pathlib import Path

from finery_shared.models import CheckPath


def once_checked(check_path: CheckPath) -> CheckPath:
    """A check for paths that passed ``check_path`` before; one with links, which may lead elsewhere now, has to again.

    What was accepted stays so, whatever directories this process allows: a private one allows that which it was
    started from.
    """

    def check(path: str | Path, field: str) -> Path:
        place = Path(path)
        return place if place == place.resolve() else check_path(path, field)

    return check
