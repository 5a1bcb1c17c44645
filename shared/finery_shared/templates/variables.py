"""Variables that a caller may set in a chat template."""

from __future__ import annotations

from collections.abc import Iterable

from finery_shared.errors import invalid

RESERVED = frozenset(
    {
        # Set by rendering.
        *("conversation", "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template"),
        # Arguments of `apply_chat_template` that no template sees.
        *("tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs"),
        *("padding", "truncation", "max_length"),
        # What transformers lends to every template.
        *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
        *("additional_special_tokens", "extra_special_tokens", "raise_exception", "strftime_now", "self"),
    }
)
"""Names that rendering sets by itself."""

FIELD = "chat_template_kwargs"
"""What the variables are called in requests."""


def check_variables(names: Iterable[str]) -> None:
    """Raise INVALID_ARGUMENT for the first name that rendering sets by itself."""
    taken = next((name for name in names if name in RESERVED), None)
    if taken is not None:
        raise invalid(f"{FIELD}.{taken}", "rendering sets this by itself; leave it out.")
