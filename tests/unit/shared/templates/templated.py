"""A real tokenizer under another chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finery_shared.templates import ChatTokenizer


@dataclass(frozen=True)
class Templated:
    """Renders with ``chat_template``; everything else is the inner tokenizer's."""

    inner: ChatTokenizer
    chat_template: str

    @property
    def eos_token(self) -> Any:
        return self.inner.eos_token

    @property
    def all_special_tokens(self) -> Sequence[str]:
        return self.inner.all_special_tokens

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any:
        inner: Any = self.inner
        return inner.apply_chat_template(conversation, chat_template=self.chat_template, **options)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return self.inner.encode(text, add_special_tokens=add_special_tokens)

    def get_vocab(self) -> Mapping[str, int]:
        return self.inner.get_vocab()

    def decode(self, ids: Sequence[int]) -> str:
        inner: Any = self.inner
        return str(inner.decode(ids))
