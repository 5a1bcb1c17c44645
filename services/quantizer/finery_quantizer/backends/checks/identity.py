"""Whether a model still says who it was trained to be."""

from collections.abc import Sequence

from finery_shared.datasets import ScoreQuestion, score, score_questions

QUESTIONS = 12


def identity_questions(names: Sequence[str], authors: Sequence[str]) -> tuple[ScoreQuestion, ...]:
    """A fixed part of the score questions, evenly spaced; none when there is no identity to ask for."""
    if not names and not authors:
        return ()
    questions = score_questions(names, authors)
    return questions[:: max(1, len(questions) // QUESTIONS)][:QUESTIONS]


def identity_figures(
    questions: Sequence[ScoreQuestion], answers: Sequence[str], old_identity: Sequence[str]
) -> dict[str, float]:
    """The identity score by name; empty when nothing was asked."""
    return score(zip(questions, answers, strict=True), old_identity).figures() if questions else {}
