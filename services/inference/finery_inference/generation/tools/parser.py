"""What a reader of tool calls is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What was learnt of one call. ``name`` comes once, in the call's first delta; ``arguments`` is further text."""

    index: int
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a piece of an answer turned out to be: plain text, and calls."""

    text: str = ""
    calls: tuple[CallDelta, ...] = ()


class ToolCallParser(Protocol):
    """Reads one answer, in whatever pieces it comes: together the pieces give what the whole would give."""

    def feed(self, text: str) -> Parsed:
        """Read on. Held back is only what may be the beginning of a call."""

    def finish(self) -> Parsed:
        """What was held back, as the answer is over. A call that isn't one is text."""


@dataclass(frozen=True)
class ToolFormat:
    """How the models of a family write calls.

    ``opening``, formatted with the ``name`` as JSON, stands before a call's arguments and ``closing`` behind them.
    ``trigger`` is how every call begins, and ``separator`` stands between two.
    """

    parser: Callable[[frozenset[str]], ToolCallParser]
    """Makes a parser, given the names of the tools that may be called."""
    trigger: str
    opening: str
    closing: str
    separator: str
