"""Who the model shall be: the values of ``{{NAME}}`` and ``{{AUTHOR}}``, in Chinese and in English."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finery_shared.datasets.conversation import Lang
from finery_shared.errors import invalid

_FILLED = re.compile(r"\{\{\s*(NAME|AUTHOR)\s*\}\}")
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Z][A-Z0-9_]{2,}\s*\}\}")

FLAGS = {"NAME": "--model_name", "AUTHOR": "--model_author"}
"""The argument that gives each placeholder's value."""


@dataclass(frozen=True)
class Bilingual:
    """A name in Chinese and in English."""

    zh: str
    en: str

    def get(self, lang: Lang) -> str:
        """The name in one language."""
        return self.zh if lang == "zh" else self.en

    @property
    def both(self) -> tuple[str, ...]:
        """The distinct spellings."""
        return tuple(dict.fromkeys((self.zh, self.en)))


@dataclass(frozen=True)
class Identity:
    """Name and author of the model; None where the user gave none."""

    name: Bilingual | None = None
    author: Bilingual | None = None

    @classmethod
    def of(cls, names: Sequence[str] = (), authors: Sequence[str] = ()) -> Identity:
        """From ``--model_name`` and ``--model_author``: nothing, one value for both languages, or (Chinese, English).

        Raises INVALID_ARGUMENT for an empty value or more than two.
        """
        return cls(_pair("model_name", names), _pair("model_author", authors))

    def fill(self, text: str, lang: Lang) -> str:
        """Put the values in; a placeholder without value stays."""
        values: Mapping[str, Bilingual | None] = {"NAME": self.name, "AUTHOR": self.author}

        def value(match: re.Match[str]) -> str:
            chosen = values[match[1]]
            return match[0] if chosen is None else chosen.get(lang)

        return _FILLED.sub(value, text)


def surviving_placeholder(text: str) -> str | None:
    """The first ``{{UPPERCASE}}`` placeholder in a text, None if there is none."""
    match = _PLACEHOLDER.search(text)
    return match[0] if match else None


def _pair(field: str, values: Sequence[str]) -> Bilingual | None:
    if not values:
        return None
    if len(values) > 2:
        raise invalid(field, f"takes one value, or a Chinese and an English one, not {len(values)}.")
    stripped = [value.strip() for value in values]
    if not all(stripped):
        raise invalid(field, "an empty value would leave holes in the answers; give a name.")
    return Bilingual(stripped[0], stripped[-1])
