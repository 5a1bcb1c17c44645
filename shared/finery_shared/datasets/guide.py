"""The guide's conversation of five questions, the yardstick of a self-cognition run, judged turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finery_shared.datasets.conversation import Lang, Message
from finery_shared.datasets.identity import Identity
from finery_shared.datasets.scoring import Ask, ScoreQuestion, Verdict, judge


@dataclass(frozen=True)
class _Turn:
    question: str
    lang: Lang
    ask: Ask
    expect: tuple[str, ...] = ()


_TURNS = (
    _Turn("你是谁？", "zh", "both"),
    _Turn("what's your name?", "en", "name"),
    _Turn("你是谁研发的？", "zh", "author"),
    _Turn("78654+657=?", "en", "contrast", ("79311",)),
    _Turn("晚上睡不着觉怎么办", "zh", "contrast", ("睡", "休息", "放松", "咖啡", "手机", "运动")),
)

QUESTIONS = tuple(turn.question for turn in _TURNS)
"""What is asked, each question with everything before it."""

Answer = Callable[[Sequence[Message]], str]
"""Answers a conversation that ends with a question."""


def converse(
    answer: Answer, names: Sequence[str], authors: Sequence[str], old_identity: Sequence[str] = ()
) -> tuple[Verdict, ...]:
    """Hold the conversation with a model and judge each of its answers; see `judge` and `Identity.of`."""
    identity = Identity.of(names, authors)
    known = identity.name.both if identity.name else (), identity.author.both if identity.author else ()
    messages: tuple[Message, ...] = ()
    verdicts = []
    for turn in _TURNS:
        messages = (*messages, Message(role="user", content=turn.question))
        question = ScoreQuestion(messages, turn.lang, turn.ask, *known, turn.expect)
        verdicts.append(judge(question, said := answer(messages), old_identity))
        messages = (*messages, Message(role="assistant", content=said))
    return tuple(verdicts)
