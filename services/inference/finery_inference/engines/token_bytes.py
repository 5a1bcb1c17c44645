"""The bytes that each token stands for: a token may begin or end within a character."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""SentencePiece's."""
_BYTE_LEVEL_SPACE = "\u0120"


def byte_names() -> list[str]:
    """The character by which byte-level tokenizers (GPT-2's and its heirs') write each byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


class TokenBytes:
    """Looks tokens of one vocabulary up, byte-level or SentencePiece."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        byte_level = _words_after(_BYTE_LEVEL_SPACE, vocabulary) > _words_after(_SPACE, vocabulary)
        names = {name: byte for byte, name in enumerate(byte_names())}
        read = _byte_level(names) if byte_level else _sentence_piece
        self._bytes = {token: read(text) for text, token in vocabulary.items()}

    def of(self, token_id: int) -> bytes:
        """A token's bytes; none for an id that no token has (embeddings are often larger than vocabularies)."""
        return self._bytes.get(token_id, b"")


def _words_after(space: str, vocabulary: Mapping[str, int]) -> int:
    return sum(text.startswith(space) for text in vocabulary)


def _byte_level(bytes_by_name: Mapping[str, int]) -> Callable[[str], bytes]:
    def read(text: str) -> bytes:
        try:
            return bytes(bytes_by_name[name] for name in text)
        except KeyError:  # an added token stands for itself
            return text.encode()

    return read


def _sentence_piece(text: str) -> bytes:
    if fallback := _BYTE_FALLBACK.fullmatch(text):
        return bytes.fromhex(fallback[1])
    return text.replace(_SPACE, " ").encode()
