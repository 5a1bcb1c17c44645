"""Llama 3's format: an answer that is nothing but JSON objects, {"name": …, "parameters": {…}}, one or several."""

from __future__ import annotations

from enum import Enum

from finery_inference.generation.tools.collected import Collected
from finery_inference.generation.tools.json_call import JsonCall, Stage
from finery_inference.generation.tools.parser import Parsed, ToolFormat

_SPACE = " \t\r\n"


class _Where(Enum):
    START = "start"
    """Before the answer's first letter, or behind a call: another one may follow."""
    CALL = "call"
    TEXT = "text"


class Llama3JsonParser:
    """No mark tells a call from an answer in JSON: an object counts if it names one of the tools."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._where = _Where.START
        self._buffer = ""
        self._space = ""
        self._call = JsonCall(names)
        self._found = Collected()

    def feed(self, text: str) -> Parsed:
        """See ToolCallParser."""
        self._buffer += text
        while self._step():
            pass
        return self._found.take()

    def finish(self) -> Parsed:
        """See ToolCallParser."""
        if self._where is _Where.CALL:
            held = self._call.finish()
            self._found.add_text(self._space + held if held else "")
        elif self._where is _Where.TEXT or not self._found.any_call:
            self._found.add_text(self._buffer)
        self._where, self._buffer = _Where.TEXT, ""
        return self._found.take()

    def _step(self) -> bool:
        if self._where is _Where.START:
            return self._read_start()
        if self._where is _Where.CALL:
            return self._read_call()
        self._found.add_text(self._buffer)
        self._buffer = ""
        return False

    def _read_start(self) -> bool:
        rest = self._buffer.lstrip(_SPACE + ";" if self._found.any_call else _SPACE)
        if not rest:
            return False
        if rest[0] == "{":
            self._space = self._buffer[: len(self._buffer) - len(rest)]
            self._where, self._buffer, self._call = _Where.CALL, rest, JsonCall(self._names)
        else:
            self._where = _Where.TEXT
        return True

    def _read_call(self) -> bool:
        call = self._call
        self._buffer = self._found.read(call, self._buffer)
        if call.stage is Stage.MALFORMED:
            self._found.add_text(self._space)
            self._where = _Where.TEXT
        elif call.stage is Stage.DONE:
            self._where = _Where.START
        return self._where is not _Where.CALL


LLAMA3_JSON = ToolFormat(
    Llama3JsonParser,
    trigger='{"name": ',
    opening='{{"name": {name}, "parameters": ',
    closing="}",
    separator="; ",
)
