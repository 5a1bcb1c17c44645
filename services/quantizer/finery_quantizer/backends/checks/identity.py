"""Whether a model still says who it was trained to be."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from finery_quantizer.backends.checks.generation import answer
from finery_shared.datasets import score, score_questions

QUESTIONS = 16
MAX_NEW_TOKENS = 48


def identity_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    names: Sequence[str],
    authors: Sequence[str],
    old_identity: Sequence[str],
) -> dict[str, float]:
    """The identity score on a fixed part of the score questions, evenly spaced; empty when there is no identity."""
    if not names and not authors:
        return {}
    questions = score_questions(names, authors)
    chosen = questions[:: max(1, len(questions) // QUESTIONS)][:QUESTIONS]
    answers = answer(model, tokenizer, [question.messages for question in chosen], MAX_NEW_TOKENS)
    return score(zip(chosen, (a.text for a in answers), strict=True), old_identity).figures()
