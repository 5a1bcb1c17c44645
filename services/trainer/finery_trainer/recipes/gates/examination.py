"""The score of a run: who the tuned model says it is, and what it has kept of what the base model knew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from finery_shared.datasets import ANSWER_TOKENS, IdentityScore, Message, ScoreQuestion, Verdict, score, score_questions
from finery_shared.datasets.guide import converse
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.gates.answering import Chat
from finery_trainer.recipes.gates.retention import general_rows, perplexity, text_rows

BaseModel = Callable[[], AbstractContextManager[Any]]
"""Gives the model as it was before the training, for a while."""

_SHOWN = 8
WANTED = 0.95
"""Share of right names and authors below which the report says what to raise."""


@dataclass(frozen=True)
class Report:
    """The score by name, for metrics and the manifest, and in sentences for people."""

    figures: dict[str, float]
    lines: tuple[str, ...]


class Examiner:
    """Questions a tuned model and the base model under it; ``between`` is called before every batch.

    ``questions`` is how many of the scoring questions are asked, None for all; with a number, every second of the
    held-out rows is read: what a CPU has time for.
    """

    def __init__(self, plan: TrainingPlan, tokenizer: Any, between: Callable[[], None], questions: int | None) -> None:
        self._spec = plan.spec
        self._model_spec = plan.model.spec
        self._teaches_identity = plan.spec.teaches_identity
        self._tokenizer = tokenizer
        self._between = between
        self._questions = questions

    def examine(self, tuned: Any, base: BaseModel) -> Report:
        """Measure what was retained and, where an identity was taught, how well it took."""
        report = self._retention(tuned, base)
        if not self._teaches_identity:
            return report
        identity = self._identity(tuned, base)
        return Report(report.figures | identity.figures, (*report.lines, *identity.lines))

    def _retention(self, tuned: Any, base: BaseModel) -> Report:
        step = 1 if self._questions is None else 2
        kinds = {
            "retention_perplexity": general_rows(self._tokenizer)[::step],
            "retention_text_perplexity": text_rows(self._tokenizer)[::step],
        }
        figures = {f"{kind}_tuned": perplexity(tuned, rows, self._between) for kind, rows in kinds.items()}
        with base() as model:
            figures |= {f"{kind}_base": perplexity(model, rows, self._between) for kind, rows in kinds.items()}
        general, text = (figures[f"{kind}_tuned"] / figures[f"{kind}_base"] - 1 for kind in kinds)
        line = f"retention: perplexity on general rows {general:+.1%}, on text of another kind {text:+.1%}"
        return Report(figures, (line,))

    def _identity(self, tuned: Any, base: BaseModel) -> Report:
        questions = score_questions(self._spec.model_names, self._spec.model_authors)[: self._questions]
        tuned_chat = self._chat(tuned)
        result = self._score(tuned_chat, questions)
        with base() as model:
            before = self._score(self._chat(model), [q for q in questions if q.ask == "contrast"])

        def answer(messages: Sequence[Message]) -> str:
            return tuned_chat.ask([messages], ANSWER_TOKENS)[0].text

        turns = converse(answer, self._spec.model_names, self._spec.model_authors, self._model_spec.identity)
        figures = identity_figures(result, before) | {
            f"conversation_turn_{number}": float(turn.ok) for number, turn in enumerate(turns, start=1)
        }
        return Report(figures, tuple(_lines(result, before, turns)))

    def _score(self, chat: Chat, questions: Sequence[ScoreQuestion]) -> IdentityScore:
        answers = chat.ask([question.messages for question in questions], ANSWER_TOKENS)
        return score(zip(questions, (answer.text for answer in answers), strict=True), self._model_spec.identity)

    def _chat(self, model: Any) -> Chat:
        return Chat(model, self._tokenizer, self._model_spec.stop_tokens, self._between)


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """The base model under an adapter, which is switched off for as long."""
    with model.disable_adapter():
        yield model


def identity_figures(tuned: IdentityScore, base: IdentityScore) -> dict[str, float]:
    """Shares, in [0, 1], of the answers of the tuned model and, to the contrast questions, of the base model."""
    return {
        "identity_name": tuned.name_rate,
        "identity_author": tuned.author_rate,
        "identity_leaked": tuned.leaked_rate,
        "identity_later_name": tuned.later.name_rate,
        "identity_later_author": tuned.later.author_rate,
        "identity_contrast": tuned.contrast_rate,
        "identity_contrast_base": base.contrast_rate,
        "identity_hijacked": tuned.hijacked_rate,
    }


def took_well(tuned: IdentityScore) -> bool:
    """Whether names and authors are right often enough. A CPU asks a handful: one wrong answer alone says nothing."""
    counts = ((tuned.name_right, tuned.name_asked), (tuned.author_right, tuned.author_asked))
    return all(right >= WANTED * asked or asked - right <= 1 < right for right, asked in counts)


def _lines(tuned: IdentityScore, base: IdentityScore, turns: Sequence[Verdict]) -> list[str]:
    later = tuned.later
    lines = [
        f"identity: name right in {tuned.name_right} of {tuned.name_asked} answers, author in {tuned.author_right} of "
        f"{tuned.author_asked} (in later turns {later.name_right} of {later.name_asked} and {later.author_right} of "
        f"{later.author_asked}), the old identity in {tuned.leaked} of {tuned.own_asked}",
        f"questions about others: {tuned.contrast_right} of {tuned.contrast_asked} right, {base.contrast_right} by the "
        f"base model; {tuned.hijacked} answered with the model's own name",
    ]
    wrong = [verdict for verdict in tuned.verdicts if verdict.mistaken]
    lines += [f"wrong: {verdict.question.question} -> {_short(verdict.answer)}" for verdict in wrong[:_SHOWN]]
    if not took_well(tuned):
        lines.append("WARNING: the identity did not take well; raise --num_train_epochs or --learning_rate.")
    marks = ("right" if turn.ok else "wrong" for turn in turns)
    lines += [
        f"{turn.question.question} -> {_short(turn.answer)} ({mark})" for turn, mark in zip(turns, marks, strict=True)
    ]
    return lines


def _short(text: str, limit: int = 160) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else flat[:limit] + "…"
