"""Hermes' and Qwen's format: <tool_call>, a JSON object and </tool_call>, each on lines of their own."""

from __future__ import annotations

from enum import Enum

from finery_inference.generation.tools.collected import Collected
from finery_inference.generation.tools.json_call import JsonCall, Stage
from finery_inference.generation.tools.parser import Parsed, ToolFormat

_BEGIN, _END = "<tool_call>", "</tool_call>"


class _Where(Enum):
    TEXT = "text"
    CALL = "call"
    CLOSING = "closing"
    """Behind a call's object, before its end mark."""
    BETWEEN = "between"
    """Behind an end mark, where another call may follow."""


class HermesParser:
    """The line break before a call belongs to it: chat templates put it there."""

    def __init__(self, _names: frozenset[str] = frozenset()) -> None:
        self._where = _Where.TEXT
        self._buffer = ""
        self._mark = ""
        self._call = JsonCall()
        self._found = Collected()

    def feed(self, text: str) -> Parsed:
        """See ToolCallParser."""
        self._buffer += text
        steps = {
            _Where.TEXT: self._read_text,
            _Where.CALL: self._read_call,
            _Where.CLOSING: self._read_closing,
            _Where.BETWEEN: self._read_between,
        }
        while steps[self._where]():
            pass
        return self._found.take()

    def finish(self) -> Parsed:
        """See ToolCallParser."""
        if self._where is _Where.CALL:
            self._found.add_text("" if self._call.name else self._mark + self._call.finish())
        elif self._where is _Where.TEXT or (self._where is _Where.BETWEEN and self._buffer.strip()):
            self._found.add_text(self._buffer)
        self._where, self._buffer = _Where.TEXT, ""
        return self._found.take()

    def _read_text(self) -> bool:
        at = self._buffer.find(_BEGIN)
        if at < 0:
            keep = max(_overlap(self._buffer, _BEGIN), _overlap(self._buffer, "\n" + _BEGIN))
            cut = len(self._buffer) - keep
            self._found.add_text(self._buffer[:cut])
            self._buffer = self._buffer[cut:]
            return False
        start = at - 1 if self._buffer[at - 1 : at] == "\n" else at
        self._found.add_text(self._buffer[:start])
        self._begin_call(self._buffer[start : at + len(_BEGIN)], self._buffer[at + len(_BEGIN) :])
        return True

    def _begin_call(self, mark: str, rest: str) -> None:
        self._where, self._mark, self._buffer, self._call = _Where.CALL, mark, rest, JsonCall()

    def _read_call(self) -> bool:
        call = self._call
        self._buffer = self._found.read(call, self._buffer)
        if call.stage is Stage.MALFORMED:
            self._found.add_text(self._mark)
            self._where = _Where.TEXT
        elif call.stage is Stage.DONE:
            self._where = _Where.CLOSING
        return self._where is not _Where.CALL

    def _read_closing(self) -> bool:
        # Models close a brace too many now and then.
        rest = self._buffer.lstrip(" \t\r\n}")
        if rest.startswith(_END):
            self._buffer = rest[len(_END) :]
        elif _END.startswith(rest):
            return False
        self._where = _Where.BETWEEN
        return True

    def _read_between(self) -> bool:
        rest = self._buffer.lstrip()
        if rest.startswith(_BEGIN):
            space = self._buffer[: len(self._buffer) - len(rest)]
            self._begin_call(space + _BEGIN, rest[len(_BEGIN) :])
            return True
        if _BEGIN.startswith(rest):
            return False
        self._where = _Where.TEXT
        return True


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of a text that a mark begins with."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)


HERMES = ToolFormat(
    HermesParser,
    trigger=_BEGIN,
    opening=_BEGIN + '\n{{"name": {name}, "arguments": ',
    closing="}\n" + _END,
    separator="\n",
)
