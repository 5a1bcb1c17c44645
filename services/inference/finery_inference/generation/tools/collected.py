"""What a parser has found since it last said so."""

from __future__ import annotations

from finery_inference.generation.tools.json_call import JsonCall
from finery_inference.generation.tools.parser import CallDelta, Parsed


class Collected:
    """Text and calls, the calls numbered as they come."""

    def __init__(self) -> None:
        self._begun = 0
        self._text: list[str] = []
        self._calls: list[CallDelta] = []

    @property
    def any_call(self) -> bool:
        """Whether a call has begun."""
        return self._begun > 0

    def add_text(self, text: str) -> None:
        """Text that belongs to no call."""
        self._text.append(text)

    def read(self, call: JsonCall, text: str) -> str:
        """Have a call read on; returns what it leaves of the text."""
        known = bool(call.name)
        arguments = call.feed(text)
        if call.name and not known:
            self._calls.append(CallDelta(self._begun, call.name, arguments))
            self._begun += 1
        elif arguments:
            self._calls.append(CallDelta(self._begun - 1, arguments=arguments))
        return call.rest

    def take(self) -> Parsed:
        """All of it, once."""
        parsed = Parsed("".join(self._text), tuple(self._calls))
        self._text, self._calls = [], []
        return parsed
