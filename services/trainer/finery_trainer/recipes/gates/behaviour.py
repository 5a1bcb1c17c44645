"""The gate on what a tuned model does: it answers, and it stops."""

from __future__ import annotations

from finery_shared.templates import Messages
from finery_trainer.recipes.gates.answering import Chat
from finery_trainer.recipes.gates.files import failed

_SMOKE: tuple[Messages, ...] = (
    ({"role": "user", "content": "Hello!"},),
    ({"role": "user", "content": "你好！"},),
    ({"role": "user", "content": "What is 1 + 1?"},),
)
_SMOKE_TOKENS = 128


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
