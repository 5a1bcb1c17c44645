"""What ends a generation, and the system prompt that a template puts in by itself."""

from __future__ import annotations

from collections.abc import Iterable

from finery_shared.templates.families import family_of
from finery_shared.templates.tokenizer import ChatTokenizer, template_text


def stop_token_ids(tokenizer: ChatTokenizer, extra: Iterable[str] = ()) -> tuple[int, ...]:
    """The ids that stop a generation: the template family's, EOS and ``extra``, those that the vocabulary has."""
    family = family_of(template_text(tokenizer))
    tokens = [family.end_of_turn, *family.stop_tokens, tokenizer.eos_token, *extra]
    vocabulary = tokenizer.get_vocab()
    return tuple(dict.fromkeys(vocabulary[str(token)] for token in tokens if token and str(token) in vocabulary))


def default_system(tokenizer: ChatTokenizer) -> str | None:
    """The system prompt that the tokenizer's template puts in when the messages have none; None if it puts in none."""
    return family_of(template_text(tokenizer)).default_system
