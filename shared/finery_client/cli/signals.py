"""Signals that end a command: SIGTERM and a closed terminal interrupt it just as Ctrl-C does."""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


class Stopped(Exception):
    """The command was interrupted, and has said all there was to say."""


def interruptible() -> None:
    """Make SIGTERM and SIGHUP raise KeyboardInterrupt in the main thread."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
