"""What the engine is to let a model write, so that it calls the tools that it must call as their schemas say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from finery_inference.engines.protocol import Structured
from finery_inference.generation.request import ChatInput, Tool
from finery_inference.generation.tools.parser import ToolFormat

_NO_ARGUMENTS: Mapping[str, JsonValue] = {"type": "object", "properties": {}, "additionalProperties": False}
_ANY_ARGUMENTS: Mapping[str, JsonValue] = {"type": "object", "additionalProperties": True}


MOST_SPACES = 1
"""In a row between the parts of JSON: a model that may write as many as it likes may never come to an end."""


def constraint(style: ToolFormat, prompt: ChatInput) -> Structured | None:
    """A structural tag of xgrammar for a required or named call and for strict tools; None if anything goes.

    The calls keep the model's own format, so that it writes what it was trained to write, and one parser reads all.
    """
    forced = prompt.tool_choice in ("required", "function")
    if forced:
        called = [tool for tool in prompt.tools if prompt.function in ("", tool.name)]
        shape: dict[str, JsonValue] = {
            "type": "tags_with_separator",
            "tags": _tags(style, called, strict=True),
            "separator": style.separator,
            "at_least_one": True,
            "stop_after_first": prompt.tool_choice == "function" or not prompt.parallel_tool_calls,
        }
    elif any(tool.strict for tool in prompt.tools):
        shape = {
            "type": "triggered_tags",
            "triggers": [style.trigger],
            "tags": _tags(style, prompt.tools, strict=False),
            "stop_after_first": not prompt.parallel_tool_calls,
        }
    else:
        return None
    return Structured("structural_tag", json.dumps({"type": "structural_tag", "format": shape}))


def _tags(style: ToolFormat, tools: Sequence[Tool], *, strict: bool) -> list[JsonValue]:
    """A tag for each tool; ``strict`` holds every tool to its schema, else those that ask for it."""
    return [
        {
            "type": "tag",
            "begin": style.opening.format(name=json.dumps(tool.name)),
            "content": {
                "type": "json_schema",
                "json_schema": dict(_schema(tool, strict)),
                "max_whitespace_cnt": MOST_SPACES,
            },
            "end": style.closing,
        }
        for tool in tools
    ]


def _schema(tool: Tool, strict: bool) -> Mapping[str, JsonValue]:
    if strict or tool.strict:
        return _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    return _ANY_ARGUMENTS
