"""API keys in a file that may change while the gateway serves: a new key is good, and an old one bad, at once."""

from __future__ import annotations

import os
from pathlib import Path

from finery_gateway.auth import KeyRing, is_whole
from finery_shared.errors import FineryError, Reason
from finery_shared.log import Logger
from finery_shared.secret_files import read_secret


class KeyFile:
    """The keys of a file, one a line as in FINERY_GATEWAY_API_KEYS; empty lines and those that begin with # are none.

    ``given`` are further keys. The file is read again when it has changed; one that has become unreadable leaves the
    keys as they were. Raises INVALID_ARGUMENT if it is unreadable from the start.
    """

    def __init__(self, path: Path, given: tuple[str, ...], log: Logger) -> None:
        self._path = path
        self._given = given
        self._log = log
        self._seen = self._stamp()
        self._ring = KeyRing((*given, *read_keys(path)))

    def accepts(self, key: str) -> bool:
        """See Keys."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            self._read_again()
        return self._ring.accepts(key)

    def _read_again(self) -> None:
        try:
            keys = read_keys(self._path)
        except FineryError as error:
            self._log.warning("the API keys stay as they were", error=error.message)
            return
        self._ring = KeyRing((*self._given, *keys))
        self._log.info("API keys read", file=str(self._path), keys=len(keys))

    def _stamp(self) -> tuple[int, int, int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        # The change time tells of a new mode, too: what was refused for its mode may be good now.
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def read_keys(path: Path) -> tuple[str, ...]:
    """The keys of a file. Raises INVALID_ARGUMENT."""
    lines = [line.strip() for line in read_secret(path, "FINERY_GATEWAY_API_KEYS_FILE").splitlines()]
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    for number, line in enumerate(lines, 1):
        if not is_whole(line):
            message = f"FINERY_GATEWAY_API_KEYS_FILE={path}, line {number}: expected 64 lower-case hex digits."
            raise FineryError(Reason.INVALID_ARGUMENT, message)
        if not line.startswith("#") and len(line.split()) > 1:
            message = f"FINERY_GATEWAY_API_KEYS_FILE={path}, line {number}: a key has no spaces in it."
            raise FineryError(Reason.INVALID_ARGUMENT, message)
    return keys
