"""The fake engine's tokenizer: one token a byte, and ChatML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finery_inference.engines.token_bytes import byte_names

END_OF_TEXT, START_OF_TURN, END_OF_TURN = 256, 257, 258
_SPECIAL = {"<|endoftext|>": END_OF_TEXT, "<|im_start|>": START_OF_TURN, "<|im_end|>": END_OF_TURN}
_NAMES = {token: name for name, token in _SPECIAL.items()}
_SPLIT = re.compile("|".join(f"({re.escape(name)})" for name in _SPECIAL))


class FakeTokenizer:
    """Every byte is the token of its value; three special tokens follow."""

    chat_template = "<|im_start|>{{role}}\n{{content}}<|im_end|>\n"
    """Stands for what `apply_chat_template` does."""
    eos_token = "<|im_end|>"
    all_special_tokens = tuple(_SPECIAL)
    size = 259

    def apply_chat_template(
        self,
        conversation: Any,
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        return_dict: bool,
        tools: Sequence[Any] = (),
        **variables: Any,
    ) -> Any:
        """ChatML without a default system prompt; tools and the variable ``preface`` make a system turn."""
        lines = [str(variables.get("preface", "")), *(json.dumps(tool, ensure_ascii=False) for tool in tools)]
        preface = "\n".join(filter(None, lines))
        text = f"<|im_start|>system\n{preface}<|im_end|>\n" if preface else ""
        text += "".join(f"<|im_start|>{m['role']}\n{_said(m)}<|im_end|>\n" for m in conversation)
        text += "<|im_start|>assistant\n" if add_generation_prompt else ""
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Text to bytes and special tokens."""
        tokens: list[int] = []
        for part in filter(None, _SPLIT.split(text)):
            tokens.extend([_SPECIAL[part]] if part in _SPECIAL else part.encode())
        return tokens

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Bytes and special tokens to text."""
        parts = (
            bytes([token]) if token < 256 else b"" if skip_special_tokens else _NAMES[token].encode()
            for token in token_ids
        )
        return b"".join(parts).decode(errors="replace")

    def get_vocab(self) -> Mapping[str, int]:
        """Bytes as byte-level tokenizers write them, special tokens by name."""
        return {**{name: byte for byte, name in enumerate(byte_names())}, **_SPECIAL}


def _said(message: Mapping[str, Any]) -> str:
    """A message's text and its tool calls, as Hermes models write them."""
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return "\n".join([*filter(None, [message["content"]]), *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)])
