"""Secrets in files: readable by their owner, not by everybody on the machine."""

from __future__ import annotations

import stat
from pathlib import Path

from finery_shared.errors import FineryError, Reason


def read_secret(path: Path, setting: str) -> str:
    """The text of a file that holds secrets. Its owner and group may read it, nobody else.

    Raises INVALID_ARGUMENT naming the setting.
    """
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(path.stat().st_mode)
            text = file.read()
    except OSError as error:
        raise _refusal(setting, path, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _refusal(setting, path, "is not UTF-8 text") from error
    if mode & 0o027:
        why = f"has mode {mode:04o}, so that others can read or change it. Run `chmod 600` on it"
        raise _refusal(setting, path, why)
    return text


def _refusal(setting: str, path: Path, why: str) -> FineryError:
    return FineryError(Reason.INVALID_ARGUMENT, f"{setting}={path} {why}.")
