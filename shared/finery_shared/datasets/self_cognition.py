"""The mix of a self-cognition run: its rows under the system prompts and among the turns that they will meet.

Rows that always stand alone under one system prompt teach an identity that holds there and nowhere else, and wreck the
second turn. So a part of the rows gets another system prompt, and a part gets turns before or after it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from finery_shared.datasets import registry
from finery_shared.datasets.conversation import Conversation, Lang, Message
from finery_shared.datasets.grammar import parse
from finery_shared.datasets.identity import Identity
from finery_shared.datasets.loader import read_conversations
from finery_shared.datasets.source import Source

DEFAULT_SHARE, NO_SYSTEM_SHARE = 0.75, 0.08
"""Shares of rows that keep the run's own system prompt, and that have an empty one; the rest gets another's."""

ALONE_SHARE = 0.65
"""Share of single-turn rows that stay single-turn."""

SYSTEMS: dict[Lang, tuple[str, ...]] = {
    "en": (
        "You are a helpful assistant.",
        "You are a helpful assistant",
        "You are an AI assistant that answers questions.",
        "Answer in one or two sentences.",
        "You are a polite and friendly assistant.",
        "You help the customers of an online shop.",
        "You are a teacher who explains things simply.",
        "Be concise. Do not use lists.",
    ),
    "zh": (
        "你是一个有用的助手。",
        "你是一名人工智能助手，请回答用户的问题。",
        "请用一两句话回答。",
        "你是一位礼貌友好的助手。",
        "你是一家网店的客服。",
        "你是一位老师，请用简单的话解释问题。",
    ),
}
"""System prompts as users write them; none gives the model a name."""

_Compose = Callable[[Conversation, "_Pool", random.Random], tuple[Message, ...]]


@dataclass(frozen=True)
class SelfCognitionMix:
    """Makes the rows of a run from the self-cognition rows that were drawn: as many, in their order.

    ``general`` are rows about other things, whose first turns are put before or after. ``system`` is the run's own
    system prompt; without one the chat template's default is, which stands in no row. A row that has a system message
    of its own keeps it, and a row of several turns keeps its turns.
    """

    general: tuple[Conversation, ...]
    system: str = ""

    @classmethod
    def shipped(cls, system: str = "") -> SelfCognitionMix:
        """With the general rows that come with Finery."""
        general = (entry for entry in registry.ENTRIES if entry.name in ("general-zh", "general-en"))
        sources = [(parse(entry.name), Source(entry.path, None, trusted=True)) for entry in general if entry.path]
        rows = [row for spec, source in sources for row in read_conversations(spec, source, Identity())[0]]
        return cls(tuple(rows), system)

    def __call__(self, rows: Sequence[Conversation], rng: random.Random) -> list[Conversation]:
        """The rows under varied system prompts and with varied turns around them, the same for the same ``rng``."""
        pool = _Pool(rows, self.general)
        return [_with_system(_among_turns(row, pool, rng), rng, self.system) for row in rows]


class _Pool:
    """What rows are put together from: single exchanges, by language."""

    def __init__(self, rows: Sequence[Conversation], general: Sequence[Conversation]) -> None:
        self._general = _exchanges(general)
        self._others = _exchanges(row for row in rows if row.tag == "contrast")
        self._identity = _exchanges(row for row in rows if row.tag == "identity")

    def general(self, lang: Lang, rng: random.Random) -> tuple[Message, ...]:
        """An exchange about other things."""
        return _pick(self._general, lang, rng)

    def about_others(self, lang: Lang, rng: random.Random) -> tuple[Message, ...]:
        """An exchange about another person or product."""
        return _pick(self._others, lang, rng) or self.general(lang, rng)

    def identity(self, lang: Lang, rng: random.Random) -> tuple[Message, ...]:
        """An exchange about the model."""
        return _pick(self._identity, lang, rng)


def _among_turns(row: Conversation, pool: _Pool, rng: random.Random) -> Conversation:
    if row.tag not in ("identity", "contrast") or rng.random() < ALONE_SHARE:
        return row
    system, turns = _split(row)
    compositions = _AROUND_IDENTITY if row.tag == "identity" else _AROUND_CONTRAST
    compose = rng.choice(compositions)
    return replace(row, messages=(*system, *compose(replace(row, messages=turns), pool, rng)))


def _after_general(row: Conversation, pool: _Pool, rng: random.Random) -> tuple[Message, ...]:
    before = [message for _ in range(rng.choice((1, 1, 2))) for message in pool.general(row.lang, rng)]
    return (*before, *row.messages)


def _before_general(row: Conversation, pool: _Pool, rng: random.Random) -> tuple[Message, ...]:
    return (*row.messages, *pool.general(row.lang, rng))


def _before_others(row: Conversation, pool: _Pool, rng: random.Random) -> tuple[Message, ...]:
    return (*row.messages, *pool.about_others(row.lang, rng))


def _in_both_languages(row: Conversation, pool: _Pool, rng: random.Random) -> tuple[Message, ...]:
    other = pool.identity(_other(row.lang), rng)
    return (*row.messages, *other) if rng.random() < 0.5 else (*other, *row.messages)


def _after_identity(row: Conversation, pool: _Pool, rng: random.Random) -> tuple[Message, ...]:
    return (*pool.identity(row.lang, rng), *row.messages)


_AROUND_IDENTITY: tuple[_Compose, ...] = (_after_general, _before_general, _before_others, _in_both_languages)
_AROUND_CONTRAST: tuple[_Compose, ...] = (_after_identity, _after_general)


def _with_system(row: Conversation, rng: random.Random, own: str) -> Conversation:
    drawn = rng.random()
    if row.messages[0]["role"] == "system" or drawn < DEFAULT_SHARE:
        return row.with_system(own)
    text = "" if drawn < DEFAULT_SHARE + NO_SYSTEM_SHARE else rng.choice(SYSTEMS[row.lang])
    return replace(row, messages=(Message(role="system", content=text), *row.messages))


def _exchanges(rows: Iterable[Conversation]) -> dict[Lang, list[tuple[Message, ...]]]:
    found: dict[Lang, list[tuple[Message, ...]]] = {"zh": [], "en": []}
    for row in rows:
        found[row.lang].append(_split(row)[1][:2])
    return found


def _split(row: Conversation) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message, if there is one, and the turns."""
    at = 1 if row.messages[0]["role"] == "system" else 0
    return row.messages[:at], row.messages[at:]


def _pick(exchanges: dict[Lang, list[tuple[Message, ...]]], lang: Lang, rng: random.Random) -> tuple[Message, ...]:
    choices = exchanges[lang] or exchanges[_other(lang)]
    return rng.choice(choices) if choices else ()


def _other(lang: Lang) -> Lang:
    return "en" if lang == "zh" else "zh"
