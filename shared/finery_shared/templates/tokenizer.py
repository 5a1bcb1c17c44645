"""The part of a tokenizer that rendering needs; every transformers tokenizer has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Messages = Sequence[Mapping[str, Any]]
"""Messages in OpenAI's shape: ``role`` and ``content``."""


class ChatTokenizer(Protocol):
    """A tokenizer with a chat template; `transformers.PreTrainedTokenizerFast` is one."""

    @property
    def chat_template(self) -> Any:
        """The Jinja template; None if there is none, a mapping if there are several by name."""

    @property
    def eos_token(self) -> Any:
        """The end-of-sequence token as text; None if there is none."""

    @property
    def all_special_tokens(self) -> Sequence[str]:
        """The special tokens as text."""

    def apply_chat_template(
        self, conversation: Any, *, tokenize: bool, add_generation_prompt: bool, return_dict: bool
    ) -> Any:
        """Render messages: to text with ``tokenize=False``, else to token ids (``return_dict=False``)."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Text to token ids."""

    def get_vocab(self) -> Mapping[str, int]:
        """Every token, added ones included, and its id."""


def template_text(tokenizer: ChatTokenizer) -> str:
    """The tokenizer's Jinja template, the default one of several; empty if it has none."""
    template = tokenizer.chat_template
    if isinstance(template, Mapping):
        template = template.get("default") or next(iter(template.values()), "")
    return template or ""
