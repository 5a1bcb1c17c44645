r"""Whether texts are made of whole characters: JSON can write half of one, "\ud800", which no tokenizer takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from finery_shared.datasets.problems import RowProblem


def check_characters(value: object) -> None:
    """Look at a text, or at all texts and keys in lists and objects; raises RowProblem."""
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_characters(key)
            check_characters(item)
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for item in value:
            check_characters(item)


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem(
            f"it holds half of a character ({text[error.start]!r}, a lone surrogate); write the whole character, or "
            "remove it"
        ) from error
