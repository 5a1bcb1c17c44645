"""Parameters that OpenAI or vLLM know and Finery does not serve: refused by name unless they ask for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery_gateway.openai.errors import ApiError

CHAT: Mapping[str, tuple[Any, ...]] = {
    # OpenAI's
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory", "in-memory"),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
    # vLLM's
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_salt": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "guided_choice": (),
    "guided_decoding_backend": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_reasoning": (True,),
    "include_stop_str_in_output": (False,),
    "kv_transfer_params": (),
    "length_penalty": (1.0,),
    "logits_processors": ([],),
    "mm_processor_kwargs": ({},),
    "priority": (0,),
    "prompt_logprobs": (),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "vllm_xargs": ({},),
}
"""Name → the values that change nothing; null never does."""

COMPLETIONS: Mapping[str, tuple[Any, ...]] = {
    **CHAT,
    "add_special_tokens": (True,),
    "prompt_embeds": (),
    "suffix": ("",),
}
"""The same for plain completions."""


def drop_idle(body: Mapping[str, Any], unserved: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The body without unserved parameters that ask for nothing.

    Raises ApiError for the first one that asks for something.
    """
    kept = {}
    for name, value in body.items():
        if name not in unserved:
            kept[name] = value
        elif value is not None and not any(_same(value, idle) for idle in unserved[name]):
            message = f"Unsupported parameter: '{name}' is not served yet. Remove it from the request."
            raise ApiError(400, message, name, "unsupported_parameter")
    return kept


def _same(value: Any, idle: Any) -> bool:
    # In Python True == 1 and False == 0.
    return value == idle and isinstance(value, bool) == isinstance(idle, bool)


TOKENIZE: Mapping[str, tuple[Any, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (),
    "chat_template": (),
    "continue_final_message": (False,),
    "mm_processor_kwargs": ({},),
    "return_token_strs": (False,),
}
"""The same for tokenizing."""
