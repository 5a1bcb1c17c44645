"""Prompts to token ids, by the model's own tokenizer and template."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from finery_inference.engines.protocol import Tokenizer
from finery_inference.generation.loaded import LoadedModel
from finery_inference.generation.request import ChatInput, PromptInput, TextInput, TokenIdsInput
from finery_shared.datasets.tools import read_tools
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.templates import render_prompt

THREAD_CHARACTERS = 2000
"""Longer texts are tokenized in a thread: the event loop carries every other stream."""


async def token_ids(model: LoadedModel, prompt: PromptInput) -> Sequence[int]:
    """The prompt as the engine gets it.

    Raises INVALID_ARGUMENT for an empty prompt or a token that the model does not have, UNSUPPORTED when the chat
    template refuses the messages, or knows no tools.
    """
    if isinstance(prompt, TokenIdsInput):
        largest = max(prompt.token_ids, default=0)
        if largest >= model.vocab_size:
            raise invalid("prompt", f"{largest} is beyond the model's {model.vocab_size} tokens.")
        ids: Sequence[int] = prompt.token_ids
    else:
        tokenizer = model.engine.tokenizer
        if _characters(prompt) > THREAD_CHARACTERS:
            ids = await asyncio.to_thread(_tokenize, tokenizer, prompt)
        else:
            ids = _tokenize(tokenizer, prompt)
    if not ids:
        raise invalid("prompt", "it is empty; give at least one token.")
    return ids


def check_length(model: LoadedModel, prompt_tokens: int, max_tokens: int | None) -> int:
    """How many tokens may be generated; raises CONTEXT_LENGTH_EXCEEDED when prompt and answer don't fit."""
    longest = model.max_model_len
    left = longest - prompt_tokens
    if left >= max(max_tokens or 1, 1):
        return left if max_tokens is None else max_tokens
    asked = f" and max_tokens is {max_tokens}" if max_tokens is not None else ""
    raise FineryError(
        Reason.CONTEXT_LENGTH_EXCEEDED,
        f"This model's maximum context length is {longest} tokens, but the prompt has {prompt_tokens} tokens{asked}. "
        "Shorten the messages or ask for fewer tokens.",
        max_model_len=str(longest),
        prompt_tokens=str(prompt_tokens),
    )


def _characters(prompt: ChatInput | TextInput) -> int:
    return len(prompt.text) if isinstance(prompt, TextInput) else prompt.characters


def _tokenize(tokenizer: Tokenizer, prompt: ChatInput | TextInput) -> Sequence[int]:
    if isinstance(prompt, TextInput):
        return tokenizer.encode(prompt.text, add_special_tokens=True)
    if not prompt.messages:
        raise invalid("messages", "there is none; give at least one.")
    tools = read_tools([asdict(tool) for tool in prompt.offered])
    return render_prompt(tokenizer, prompt.messages, tools, prompt.variables).token_ids
