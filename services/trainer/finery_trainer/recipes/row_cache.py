"""Tokenized rows are kept by a hash of all that they depend on, so that the next attempt, or job, finds them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

MOST_BYTES = 16 * 2**30
"""What the cache may take; the files that were not used for longest go first."""

_CODE = ("finery_shared.datasets", "finery_shared.templates", "finery_trainer.recipes")
_TOKENIZER_FILES = ("*token*.json", "*.jinja", "vocab*", "merges*", "*.model", "*.tiktoken")


class RowCache:
    """Files below a directory, each made once, by whichever process comes first."""

    def __init__(self, directory: Path, most_bytes: int = MOST_BYTES) -> None:
        self._directory = directory
        self._most_bytes = most_bytes

    def get(self, key: str, make: Callable[[Path], None]) -> Path:
        """The file of that key; ``make`` writes it where there is none. Others that ask for it meanwhile wait."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._directory / f"{key}.arrow"
        with _locked(self._directory / f"{key}.lock"):
            if not path.exists():
                self._make(path, make)
            now = time.time_ns()
            os.utime(path, ns=(now, now))  # finer than the file system's own clock
        self._make_room(path)
        return path

    def drop(self, key: str) -> None:
        """Forget a file that turned out to be broken."""
        (self._directory / f"{key}.arrow").unlink(missing_ok=True)

    def _make(self, path: Path, make: Callable[[Path], None]) -> None:
        begun = path.with_suffix(".begun")
        try:
            make(begun)
            begun.replace(path)
        finally:
            begun.unlink(missing_ok=True)

    def _make_room(self, newest: Path) -> None:
        """Remove what is too much. A process that reads a removed file keeps it until it is done."""
        found = []
        for path in self._directory.glob("*.arrow"):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue  # another process makes room too
            found.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total > self._most_bytes and path != newest:
                path.unlink(missing_ok=True)
                total -= size


def content_key(content: str, tokenizer: Path, *arguments: object) -> str:
    """A hash over the rows' own, the tokenizer's files, arguments, and the code that makes tokens of them."""
    state = hashlib.sha256(repr((content, arguments, version("tokenizers"), version("transformers"))).encode())
    for path in sorted({path for pattern in _TOKENIZER_FILES for path in tokenizer.glob(pattern)}):
        state.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    for code in _sources():
        state.update(hashlib.sha256(code).digest())
    return state.hexdigest()[:40]


def _sources() -> Iterable[bytes]:
    for package in _CODE:
        modules = (item for item in files(package).iterdir() if item.name.endswith(".py"))
        yield from (item.read_bytes() for item in sorted(modules, key=lambda item: item.name))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock among processes; it goes with the process that holds it."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
