"""Token ids to text, piece by piece: no character is ever split, no part of a stop text ever shown."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

PRIMING = 4
"""Tokens of the prompt that say whether the answer begins inside a word."""


class TextStream:
    """The text of one answer, without special tokens, ended by the first of ``stop``."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(ids=list(prompt[-PRIMING:]), skip_special_tokens=True)
        self._stop = stop
        self._longest = max(map(len, stop), default=1) - 1
        self._held = ""
        self.stopped = False
        """Whether a stop text was found."""

    def add(self, token: int, *, ends: bool = True) -> str:
        """The text that this token lets out; empty while a character or perhaps a stop text is incomplete.

        Without ``ends`` a stop text counts as any other.
        """
        self._held += self._decode(token)
        if not ends:
            return self.rest()
        found = min((at for stop in self._stop if (at := self._held.find(stop)) >= 0), default=None)
        if found is not None:
            self.stopped = True
            self._held = self._held[:found]
            return self.rest()
        ready = len(self._held) - self._longest
        if ready <= 0:
            return ""
        text, self._held = self._held[:ready], self._held[ready:]
        return text

    def rest(self) -> str:
        """What was held back, when no more tokens come."""
        text, self._held = self._held, ""
        return text

    def _decode(self, token: int) -> str:
        try:
            return self._stream.step(self._tokenizer, token) or ""
        except Exception as error:  # the library has no narrower class
            # Bytes that can't become characters are behind it: the library does not recover by itself.
            if "Invalid prefix encountered" not in str(error):
                raise
            self._stream = DecodeStream(skip_special_tokens=True)
            return self._stream.step(self._tokenizer, token) or ""
