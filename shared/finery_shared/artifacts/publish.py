"""Publishing: an artifact is in view as a whole, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finery_shared.artifacts.manifest import MANIFEST, manifest_digest
from finery_shared.errors import FineryError, Reason


def publish(staged: Path, destination: Path, *, replace: bool = False) -> None:
    """Make a verified staged directory visible at its destination, by one rename on the same file system.

    Doing it again after a crash is harmless. Raises OUTPUT_EXISTS if something else is there, unless ``replace``:
    then the old directory is moved into the staging directory first.
    """
    if not staged.exists() and (destination / MANIFEST).is_file():
        return
    if destination.exists():
        if (destination / MANIFEST).is_file() and manifest_digest(destination) == manifest_digest(staged):
            return
        if not replace:
            message = f"{destination} exists and was made from something else. Remove it, or pass --exist_ok true."
            raise FineryError(Reason.OUTPUT_EXISTS, message, path=str(destination))
    with disk_errors(destination):
        _sync_tree(staged)
        destination.parent.mkdir(parents=True, exist_ok=True)
        if destination.exists():
            retired = staged.parent / f"{staged.name}.replaced"
            shutil.rmtree(retired, ignore_errors=True)
            os.rename(destination, retired)
        os.rename(staged, destination)
        _sync(destination.parent)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Tell a full disk as DISK_FULL, with the path and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise disk_full(path) from error


def disk_full(path: Path) -> FineryError:
    """The error for a file system without room."""
    message = f"No space is left on the file system of {path}. Free some, or choose another --output_dir."
    return FineryError(Reason.DISK_FULL, message, path=str(path))


def _sync_tree(directory: Path) -> None:
    for root, _, files in os.walk(directory):
        for name in files:
            _sync(Path(root) / name)
        _sync(Path(root))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
