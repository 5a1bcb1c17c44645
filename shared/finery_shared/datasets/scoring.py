"""The score of a self-cognition run: pure functions over questions that no model was trained on, and its answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from finery_shared.datasets import registry
from finery_shared.datasets.conversation import Lang, Message
from finery_shared.datasets.files import RawRow, read_rows, row_error
from finery_shared.datasets.identity import Identity

Ask = Literal["name", "author", "both", "contrast"]

SCORE_FILE = registry.DATA / "self_cognition_score.jsonl"


ANSWER_TOKENS = 48
"""New tokens that an answer to a scoring question may have, wherever it is asked: figures compare."""


@dataclass(frozen=True)
class ScoreQuestion:
    """A question with what its answer should hold. ``names`` and ``authors`` are the accepted spellings.

    ``ask`` is what is asked for: the model's name, its author, both, or (contrast) something about others; a right
    answer to that holds one of ``expect``, if there are any.
    """

    messages: tuple[Message, ...]
    lang: Lang
    ask: Ask
    names: tuple[str, ...]
    authors: tuple[str, ...]
    expect: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The question itself, the last message."""
        return self.messages[-1]["content"]

    @property
    def later(self) -> bool:
        """Whether other turns come before it."""
        return any(message["role"] == "assistant" for message in self.messages)


@dataclass(frozen=True)
class Verdict:
    """What one answer holds. ``hijacked``: own name or author in an answer about others. ``leaked``: the old identity.

    ``name_ok``, ``author_ok`` and ``contrast_ok`` (the answer is about the other, and right) are None where they were
    not asked for.
    """

    question: ScoreQuestion
    answer: str
    name_ok: bool | None
    author_ok: bool | None
    contrast_ok: bool | None
    hijacked: bool
    leaked: bool

    @property
    def ok(self) -> bool:
        """Whether everything asked for is there and nothing else is wrong."""
        return False not in (self.name_ok, self.author_ok, self.contrast_ok) and not self.leaked

    @property
    def mistaken(self) -> bool:
        """Whether it is wrong about who it is; an answer about others that is merely wrong about them is not."""
        return not self.ok and (self.contrast_ok is None or self.hijacked)


@dataclass(frozen=True)
class IdentityScore:
    """Counts over all answers, and the rates that follow."""

    name_right: int
    name_asked: int
    author_right: int
    author_asked: int
    contrast_right: int
    hijacked: int
    contrast_asked: int
    leaked: int
    own_asked: int
    verdicts: tuple[Verdict, ...] = ()

    @property
    def name_rate(self) -> float:
        """Share of right names, in [0, 1]; 1 if none was asked for."""
        return _rate(self.name_right, self.name_asked)

    @property
    def author_rate(self) -> float:
        """Share of right authors, in [0, 1]; 1 if none was asked for."""
        return _rate(self.author_right, self.author_asked)

    @property
    def contrast_rate(self) -> float:
        """Share of right answers about others, in [0, 1]; 1 if none was asked for."""
        return _rate(self.contrast_right, self.contrast_asked)

    @property
    def hijacked_rate(self) -> float:
        """Share of answers about others that are about the model itself, in [0, 1]; 0 if none was asked for."""
        return 1 - _rate(self.contrast_asked - self.hijacked, self.contrast_asked)

    @property
    def leaked_rate(self) -> float:
        """Share of answers about the model that hold its old identity, in [0, 1]; 0 if none was asked for."""
        return 1 - _rate(self.own_asked - self.leaked, self.own_asked)

    @property
    def later(self) -> IdentityScore:
        """The score of second and later turns alone."""
        return _count(tuple(verdict for verdict in self.verdicts if verdict.question.later))

    def figures(self) -> dict[str, float]:
        """The counts and rates by name, for metrics and manifests."""
        counts = {key: float(value) for key, value in asdict(self).items() if isinstance(value, int)}
        rates = {"name_rate": self.name_rate, "author_rate": self.author_rate, "contrast_rate": self.contrast_rate}
        rates |= {"hijacked_rate": self.hijacked_rate, "leaked_rate": self.leaked_rate}
        return {f"identity_{key}": value for key, value in (counts | rates).items()}


def score_questions(names: Sequence[str], authors: Sequence[str]) -> tuple[ScoreQuestion, ...]:
    """The shipped scoring questions for an identity (see `Identity.of`), history and system message included."""
    identity = Identity.of(names, authors)
    return tuple(_question(raw, identity) for raw in read_rows(SCORE_FILE))


def judge(question: ScoreQuestion, answer: str, old_identity: Sequence[str] = ()) -> Verdict:
    """Judge one answer. ``old_identity`` are the names the base model had (`ModelSpec.identity`).

    An old name that the question itself mentions does not count as leaked ("No, I am not Qwen"), and one that is part
    of the new identity is none.
    """
    has_name, has_author = mentions(answer, question.names), mentions(answer, question.authors)
    contrast = question.ask == "contrast"
    hijacked = contrast and (has_name or has_author)
    known = " ".join((question.question, *question.names, *question.authors))
    old = [term for term in old_identity if not mentions(known, [term])]
    return Verdict(
        question=question,
        answer=answer,
        name_ok=has_name if question.ask in ("name", "both") else None,
        author_ok=has_author if question.ask in ("author", "both") else None,
        contrast_ok=not hijacked and _as_expected(question, answer) if contrast else None,
        hijacked=hijacked,
        leaked=not contrast and mentions(answer, old),
    )


def score(pairs: Iterable[tuple[ScoreQuestion, str]], old_identity: Sequence[str] = ()) -> IdentityScore:
    """Judge all (question, answer) pairs and count."""
    return _count(tuple(judge(question, answer, old_identity) for question, answer in pairs))


def _count(verdicts: tuple[Verdict, ...]) -> IdentityScore:
    names = [verdict.name_ok for verdict in verdicts if verdict.name_ok is not None]
    authors = [verdict.author_ok for verdict in verdicts if verdict.author_ok is not None]
    contrast = [verdict.contrast_ok for verdict in verdicts if verdict.contrast_ok is not None]
    return IdentityScore(
        name_right=sum(names),
        name_asked=len(names),
        author_right=sum(authors),
        author_asked=len(authors),
        contrast_right=sum(contrast),
        hijacked=sum(verdict.hijacked for verdict in verdicts),
        contrast_asked=len(contrast),
        leaked=sum(verdict.leaked for verdict in verdicts),
        own_asked=len(verdicts) - len(contrast),
        verdicts=verdicts,
    )


def mentions(text: str, terms: Iterable[str]) -> bool:
    """Whether a text holds one of the terms, as a word of its own where it is written in letters; case is ignored."""
    flat = _flat(text)
    return any(_as_word(_flat(term)).search(flat) is not None for term in terms)


def _as_word(term: str) -> re.Pattern[str]:
    before = r"(?<![a-z])" if term[:1].isascii() and term[:1].isalpha() else ""
    after = r"(?![a-z])" if term[-1:].isascii() and term[-1:].isalpha() else ""
    return re.compile(before + re.escape(term) + after)


def _flat(text: str) -> str:
    return " ".join(text.casefold().split())


def _as_expected(question: ScoreQuestion, answer: str) -> bool:
    return not question.expect or mentions(answer, question.expect)


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


def _question(raw: RawRow, identity: Identity) -> ScoreQuestion:
    fields = raw.fields
    lang: Lang = "zh" if fields.get("lang") == "zh" else "en"
    ask = fields.get("ask")
    if ask not in ("name", "author", "both", "contrast") or not isinstance(fields.get("question"), str):
        raise row_error(
            raw.file, raw.place, "a scoring row needs question, lang and ask (name, author, both, contrast)"
        )
    turns = [{"role": "system", "content": fields["system"]}] if "system" in fields else []
    turns += [*fields.get("history", ()), {"role": "user", "content": fields["question"]}]
    return ScoreQuestion(
        messages=tuple(
            Message(role=turn["role"], content=identity.fill(turn["content"], turn.get("lang", lang))) for turn in turns
        ),
        lang=lang,
        ask=ask,
        names=identity.name.both if identity.name else (),
        authors=identity.author.both if identity.author else (),
        expect=tuple(fields.get("expect", ())),
    )
