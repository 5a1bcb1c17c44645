"""JSON read value by value, so that a file of any size takes no more memory than its largest row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TextIO

_NEAR_THE_END = 16
"""Characters within which an error may come from the text being cut: the longest escape and literal are shorter."""

_IN_NUMBERS = "+-.0123456789Ee"
"""What a number may go on with where the text was cut: "0." reads as 0."""

_BLANK = " \t\r\n"


class JsonStream:
    """A position in a JSON text. Every method raises json.JSONDecodeError where the text is not JSON.

    The error's line is the file's, its column the line's. ``chunk`` characters at least are read at a time.
    """

    def __init__(self, text: TextIO, chunk: int = 1 << 16) -> None:
        self._text = text
        self._chunk = chunk
        self._decoder = json.JSONDecoder()
        self._buffer = ""
        self._at = 0
        self._ended = False
        self._lines = 0
        self._column = 0

    @property
    def line(self) -> int:
        """The line of the position, from 1."""
        return self._lines + self._buffer.count("\n", 0, self._at) + 1

    def peek(self) -> str:
        """The next character that is not blank, "" at the end; the position moves there."""
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if not self._more():
                return ""

    def take(self, char: str) -> None:
        """Go past a character that has to be next."""
        if self.peek() != char:
            raise self._error(f"Expecting {char!r}")
        self._at += 1

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise self._error("Extra data")

    def value(self) -> object:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                parsed, end = self._decoder.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - _NEAR_THE_END
                ahead = error.pos - self._at
                if not (cut and self._more()):
                    self._at += ahead
                    raise self._error(error.msg) from error
            else:
                ahead = end - self._at
                goes_on = type(parsed) in (int, float) and not self._buffer[end:].strip(_IN_NUMBERS)
                if not (goes_on and self._more()):
                    self._at += ahead
                    return parsed

    def items(self) -> Iterator[object]:
        """The items of the array that is next."""
        self.take("[")
        yield from self._separated("]", self.value)

    def members(self) -> Iterator[str]:
        """The keys of the object that is next; after each key its value has to be taken."""
        self.take("{")
        for key in self._separated("}", self._key):
            yield str(key)

    def _key(self) -> object:
        if self.peek() != '"':
            raise self._error("Expecting property name enclosed in double quotes")
        key = self.value()
        self.take(":")
        return key

    def _separated(self, end: str, read: Callable[[], object]) -> Iterator[object]:
        if self.peek() == end:
            self._at += 1
            return
        while True:
            yield read()
            if self.peek() == end:
                self._at += 1
                return
            if self.peek() != ",":
                raise self._error("Expecting ',' delimiter")
            self._at += 1

    def _more(self) -> bool:
        """Read on, as much again as is held; what was passed is let go. False at the end of the text."""
        if self._ended:
            return False
        passed = self._buffer[: self._at]
        self._lines += passed.count("\n")
        self._column = len(passed) - passed.rfind("\n") - 1 if "\n" in passed else self._column + len(passed)
        self._buffer = self._buffer[self._at :]
        self._at = 0
        chunk = self._text.read(max(self._chunk, len(self._buffer)))
        self._ended = not chunk
        self._buffer += chunk
        return bool(chunk)

    def _error(self, message: str) -> json.JSONDecodeError:
        passed = self._buffer[: self._at]
        error = json.JSONDecodeError(message, self._buffer, self._at)
        error.lineno = self._lines + passed.count("\n") + 1
        error.colno = self._at - passed.rfind("\n") if "\n" in passed else self._column + self._at + 1
        return error
