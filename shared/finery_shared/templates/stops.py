"""What ends a generation, and the system prompt that a template puts in by itself."""

from __future__ import annotations

from collections.abc import Iterable

from finery_shared.errors import FineryError
from finery_shared.templates.families import family_of
from finery_shared.templates.render import render_prompt
from finery_shared.templates.tokenizer import ChatTokenizer, template_text

_MARK = "finery-system-mark"


def stop_token_ids(tokenizer: ChatTokenizer, extra: Iterable[str] = ()) -> tuple[int, ...]:
    """The ids that stop a generation: the template family's, EOS and ``extra``, those that the vocabulary has."""
    family = family_of(template_text(tokenizer))
    tokens = [family.end_of_turn, *family.stop_tokens, tokenizer.eos_token, *extra]
    vocabulary = tokenizer.get_vocab()
    return tuple(dict.fromkeys(vocabulary[str(token)] for token in tokens if token and str(token) in vocabulary))


def default_system(tokenizer: ChatTokenizer) -> str | None:
    """The system prompt that the tokenizer's template puts in when the messages have none; None if it puts in none.

    Read off two renderings, one with a system message of ours: what stands in its place in the other is the default.
    """
    user = {"role": "user", "content": "?"}
    try:
        given = render_prompt(tokenizer, [{"role": "system", "content": _MARK}, user]).text
    except FineryError:
        return None  # a template without system messages
    bare = render_prompt(tokenizer, [user]).text
    before, _, after = given.partition(_MARK)
    if not bare.startswith(before) or not bare.endswith(after):
        return None
    return bare[len(before) : len(bare) - len(after)] or None
