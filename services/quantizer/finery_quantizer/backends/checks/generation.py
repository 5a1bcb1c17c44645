"""Greedy answers of a model in memory, by its chat template."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from finery_shared.templates.render import render_prompt
from finery_shared.templates.stops import stop_token_ids
from finery_shared.templates.tokenizer import Messages


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and whether the model ended it by itself."""

    text: str
    stopped: bool


def answer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, conversations: Sequence[Messages], max_new_tokens: int
) -> list[Answer]:
    """The greedy answers to `conversations`, all in one batch."""
    prompts = [render_prompt(tokenizer, messages).token_ids for messages in conversations]
    stops = list(stop_token_ids(tokenizer))
    ids, mask = _left_padded(prompts, stops[0])
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stops, pad_token_id=stops[0], use_cache=True
    )
    with torch.inference_mode():
        output = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config)
    return [_answer(tokenizer, row[ids.shape[1] :].tolist(), stops) for row in output]


def _left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def _answer(tokenizer: PreTrainedTokenizerFast, ids: list[int], stops: list[int]) -> Answer:
    end = next((position for position, token in enumerate(ids) if token in stops), None)
    return Answer(tokenizer.decode(ids[:end], skip_special_tokens=True).strip(), end is not None)
