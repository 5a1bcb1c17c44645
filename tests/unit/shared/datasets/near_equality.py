"""When two questions count as the same question, so that one must not score what the other trained."""

from __future__ import annotations

import unicodedata
from difflib import SequenceMatcher

RATIO = 0.85
"""From this similarity on, two normalised questions are nearly equal."""

MODAL_PARTICLES = frozenset("吗呢呀啊吧嘛")
"""They end a Chinese question and change its tone only."""


def normalise(text: str) -> str:
    """Lower-case letters and digits alone: no spaces, no punctuation, no modal particles, 您 read as 你."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("您", "你")
    return "".join(c for c in folded if c.isalnum() and c not in MODAL_PARTICLES)


def nearly_equal(left: str, right: str) -> bool:
    """Whether both are equal once normalised, one edit apart, or similar by RATIO.

    A Chinese question may have four characters, where one other character already halves the ratio:
    你是谁 and 你是啥 are one edit apart and nearly equal, 谁开发了你 and 谁训练了你 (two apart) are not.
    """
    a, b = normalise(left), normalise(right)
    if within_one_edit(a, b):
        return True
    return max(_ratio(a, b), _ratio(b, a)) >= RATIO  # the ratio isn't symmetric


def within_one_edit(a: str, b: str) -> bool:
    """Whether at most one character is inserted, deleted or replaced between them."""
    short, long = sorted((a, b), key=len)
    if len(long) - len(short) > 1:
        return False
    at = next((i for i, c in enumerate(short) if c != long[i]), len(short))
    if len(short) == len(long):
        return short[at + 1 :] == long[at + 1 :]
    return short[at:] == long[at + 1 :]


def _ratio(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()
