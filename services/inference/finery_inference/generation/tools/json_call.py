"""One call as a JSON object, {"name": …, "arguments": {…}}, read as it comes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)+")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)', re.DOTALL)
_NAME = re.compile(r'\{"name":"(?:[^"\\]|\\.)+"', re.DOTALL)
_KEYS = (',"arguments":{', ',"parameters":{')


class Stage(Enum):
    """How far a call is read."""

    HEAD = "head"
    ARGUMENTS = "arguments"
    TAIL = "tail"
    DONE = "done"
    MALFORMED = "malformed"


class JsonCall:
    """Reads the name first and then hands the arguments on as they come.

    A call whose keys stand in another order, or whose arguments are no object, is read as a whole: its arguments come
    in one piece. With ``names`` it is no call, and neither is one of another name.
    """

    def __init__(self, names: frozenset[str] | None = None) -> None:
        self.name = ""
        self.stage = Stage.HEAD
        self.rest = ""
        """What is left of the text, once the stage is DONE or MALFORMED; all of it if it is no call."""
        self._names = names
        self._held = ""
        self._scanned = 0
        self._object = ObjectEnd()

    def feed(self, text: str) -> str:
        """Read on; returns new text of the arguments."""
        if self.stage is Stage.HEAD:
            self._held += text
            return self._head()
        return self._body(text)

    def finish(self) -> str:
        """The text that was held back, if it is over before it became a call."""
        return self._held if self.stage is Stage.HEAD else ""

    def _head(self) -> str:
        held = self._held
        if head := _HEAD.match(held):
            name = _loads(head[1])
            if not isinstance(name, str) or (self._names is not None and name not in self._names):
                return self._malformed()
            self.name, self.stage, self._object = name, Stage.ARGUMENTS, ObjectEnd()
            return self._body(held[head.end() :])
        if held.lstrip()[:1] not in ("", "{") or (self._names is not None and not may_become_head(held)):
            return self._malformed()
        end = self._object.find(held[self._scanned :])
        if end is None:
            self._scanned = len(held)
            return ""
        return self._whole(self._scanned + end)

    def _whole(self, end: int) -> str:
        call = _loads(self._held[:end])
        name, arguments = (call.get("name"), _arguments(call)) if isinstance(call, Mapping) else (None, None)
        if self._names is not None or not isinstance(name, str) or not name or arguments is None:
            return self._malformed()
        self.name, self.stage, self.rest = name, Stage.DONE, self._held[end:]
        return arguments

    def _body(self, text: str) -> str:
        if self.stage is Stage.TAIL:
            self._tail(text)
            return ""
        end = self._object.find(text)
        if end is None:
            return text
        self.stage, self._object = Stage.TAIL, ObjectEnd(depth=1)
        self._held = ""
        self._tail(text[end:])
        return text[:end]

    def _tail(self, text: str) -> None:
        """The object's closing brace, and what may stand before it. Without one the call is over, too."""
        self._held += text
        if self._held.lstrip()[:1] not in ("", "}", ","):
            self.stage, self.rest = Stage.DONE, self._held
            return
        end = self._object.find(text)
        if end is not None:
            self.stage, self.rest = Stage.DONE, text[end:]

    def _malformed(self) -> str:
        self.stage, self.rest = Stage.MALFORMED, self._held
        return ""


class ObjectEnd:
    """Finds where a JSON object or array ends, given in pieces."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def find(self, text: str) -> int | None:
        """The place behind the end, in this piece; None if it goes on."""
        for at, letter in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = letter == "\\"
                self._in_string = letter != '"'
            elif letter == '"':
                self._in_string = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at + 1
        return None


def may_become_head(text: str) -> bool:
    """Whether a text may go on to be the head of a call, its name first."""
    squeezed = re.sub(r"\s+", "", text)
    opening = '{"name":"'
    if not squeezed.startswith(opening):
        return opening.startswith(squeezed)
    name = _NAME.match(squeezed)
    return name is None or any(key.startswith(squeezed[name.end() :]) for key in _KEYS)


def _arguments(call: Mapping[str, object]) -> str | None:
    """A call's arguments as text, whether they are an object, one in a string, or left out; None if they are not."""
    value = call.get("arguments", call.get("parameters"))
    if isinstance(value, str):
        value = _loads(value or "{}")
    elif value is None:
        value = {}
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else None


def _loads(text: str) -> object:
    """A JSON value; None for what is none, or holds half a surrogate pair, which no message can carry."""
    try:
        value: object = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value
