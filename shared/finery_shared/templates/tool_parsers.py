"""How models write tool calls, told by their chat template. The parsers themselves are the inference service's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class ToolParserMarks:
    """A format of tool calls under vLLM's name for its parser.

    ``marks`` are strings that a Jinja template with this format contains, all of them, and none of ``others``.
    """

    name: str
    marks: tuple[str, ...]
    others: tuple[str, ...] = ()


TOOL_PARSERS: tuple[ToolParserMarks, ...] = (
    # Qwen2.5, Qwen3, Hermes: <tool_call>{"name": …, "arguments": …}</tool_call>. Others write XML between these marks.
    ToolParserMarks("hermes", ("tools", "<tool_call>", "arguments"), ("<function=", "<arg_key>")),
    # Llama 3.1 to 3.3: {"name": …, "parameters": …} alone.
    ToolParserMarks("llama3_json", ("tools", "<|start_header_id|>", '"parameters": '), ()),
)


@lru_cache(maxsize=64)
def tool_parser_of(chat_template: str) -> str | None:
    """The name of the format in which a model with this chat template calls tools; None if there is none."""
    return next(
        (
            known.name
            for known in TOOL_PARSERS
            if all(mark in chat_template for mark in known.marks)
            and not any(mark in chat_template for mark in known.others)
        ),
        None,
    )
