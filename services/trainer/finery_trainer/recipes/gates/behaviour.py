"""Gates and figures on what a tuned model does: it answers, knows its name, and has kept what it knew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel

from finery_shared.datasets import Conversation, heldout_conversations, score, score_questions
from finery_shared.templates import Messages
from finery_trainer.recipes.collator import pack
from finery_trainer.recipes.gates.answering import Chat
from finery_trainer.recipes.gates.files import failed
from finery_trainer.recipes.rows import Row, tokenize
from finery_trainer.spec import TrainingSpec

_SMOKE: tuple[Messages, ...] = (
    ({"role": "user", "content": "Hello!"},),
    ({"role": "user", "content": "你好！"},),
    ({"role": "user", "content": "What is 1 + 1?"},),
)
_SMOKE_TOKENS = 128
_SCORE_TOKENS = 48


def check_answers(chat: Chat) -> None:
    """Simple questions get answers that are not empty, and at least one that ends by itself. Raises GATE_FAILED."""
    answers = chat.ask(_SMOKE, _SMOKE_TOKENS)
    if not all(answer.text for answer in answers):
        raise failed("answers", "The tuned model gives empty answers. Lower --learning_rate, or check the rows.")
    if not any(answer.stopped for answer in answers):
        raise failed(
            "answers",
            f"The tuned model never ends an answer within {_SMOKE_TOKENS} tokens. Lower --learning_rate, or check that "
            "the rows' answers end where they should.",
        )


def identity_figures(chat: Chat, spec: TrainingSpec, old_identity: Sequence[str]) -> dict[str, float]:
    """Shares of right names and authors, and of answers about others that stayed so, on questions never trained on.

    Every other question is asked: on a CPU all of them would take a fifth of a short run.
    """
    questions = score_questions(spec.model_names, spec.model_authors)[::2]
    answers = chat.ask([question.messages for question in questions], _SCORE_TOKENS)
    result = score(zip(questions, (answer.text for answer in answers), strict=True), old_identity)
    return {
        "identity_name": result.name_rate,
        "identity_author": result.author_rate,
        "identity_contrast": result.contrast_rate,
        "identity_leaked": float(result.leaked),
    }


def retention_figures(model: PeftModel, tokenizer: Any, between: Callable[[], None]) -> dict[str, float]:
    """Perplexity on general rows that nothing is trained on, without the adapter and with it."""
    rows = held_out_rows(tokenizer, heldout_conversations())
    tuned = perplexity(model, rows, between)
    with model.disable_adapter():
        base = perplexity(model, rows, between)
    return {"retention_perplexity_base": base, "retention_perplexity_tuned": tuned}


def held_out_rows(tokenizer: Any, conversations: Sequence[Conversation]) -> tuple[Row, ...]:
    """The conversations as rows; their answers alone count."""
    return tokenize(tokenizer, conversations, max_length=2048).rows


def perplexity(model: Any, rows: Sequence[Row], between: Callable[[], None], batch_size: int = 12) -> float:
    """Exp of the mean negative log-likelihood of all learned tokens, in nats."""
    total, tokens = 0.0, 0
    for start in range(0, len(rows), batch_size):
        between()
        packed = pack(rows[start : start + batch_size])
        batch = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in packed.items()}
        learned = batch["labels"].numel()
        with torch.inference_mode():
            total += float(model(**batch, use_cache=False).loss) * learned
        tokens += learned
    return math.exp(total / tokens)
