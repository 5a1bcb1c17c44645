"""Asking a model: batched, greedy, on the model's own prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from finery_shared.templates import ChatTokenizer, Messages, render_prompt, stop_token_ids

_ON_GPU, _ON_CPU = 64, 16
"""Prompts of a batch. A CPU is busy with few, and pays for every token that fills them up to the longest one."""


@dataclass(frozen=True)
class Answer:
    """What a model said, and whether it ended by itself."""

    text: str
    stopped: bool


class Chat:
    """A model with its tokenizer. ``between`` is called before every batch, for instance to stop early."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        stop_tokens: Sequence[str],
        between: Callable[[], None],
        batch_size: int | None = None,
    ) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._stops = stop_token_ids(tokenizer, stop_tokens)
        self._between = between
        self._batch_size = batch_size or (_ON_GPU if model.device.type == "cuda" else _ON_CPU)

    def ask(self, conversations: Sequence[Messages], max_new_tokens: int) -> list[Answer]:
        """Greedy answers to conversations that end with a question, in their order."""
        chat_tokenizer: ChatTokenizer = self._tokenizer
        prompts = [render_prompt(chat_tokenizer, messages).token_ids for messages in conversations]
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), self._batch_size):
            self._between()
            batch = order[start : start + self._batch_size]
            answers |= zip(batch, self._batch([prompts[i] for i in batch], max_new_tokens), strict=True)
        return [answers[i] for i in range(len(prompts))]

    def _batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[Answer]:
        longest = max(map(len, prompts))
        pad = self._stops[0]
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        device = self._model.device
        output = self._model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=max_new_tokens,
                eos_token_id=list(self._stops),
                pad_token_id=pad,
                use_cache=True,
            ),
        )
        return [self._answer(tokens) for tokens in output[:, longest:].tolist()]

    def _answer(self, tokens: list[int]) -> Answer:
        end = next((i for i, token in enumerate(tokens) if token in self._stops), None)
        text = self._tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return Answer(str(text).strip(), end is not None)
