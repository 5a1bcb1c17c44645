"""Tool calls and tool definitions in OpenAI's shape, made what chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from finery_shared.datasets.conversation import ToolCall, ToolFunction, Turn
from finery_shared.datasets.problems import RowProblem

_TOLD = ("name", "description", "parameters")
"""What a chat template is told of a function: all that OpenAI's API can say of one."""


def read_calls(message: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """A message's ``tool_calls``, their arguments as objects; raises RowProblem."""
    calls = message.get("tool_calls") or ()
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise RowProblem("tool_calls is not a list")
    return tuple(_call(call) for call in calls)


def call_turn(text: str) -> Turn:
    """A turn whose text is a call, {name, arguments}, or a list of them; raises RowProblem."""
    parsed = _json(text, "a tool call")
    calls = parsed if isinstance(parsed, list) else [parsed]
    return Turn("assistant", "", tool_calls=tuple(_call(call) for call in calls))


def read_tools(tools: Sequence[object]) -> tuple[Mapping[str, Any], ...]:
    """The functions that a row or a request offers; raises RowProblem.

    Each comes as {type: function, function: {name, description, parameters}}, in this order and without what is empty,
    so that a tool reads the same to the model however it was written.
    """
    return tuple(_tool(tool) for tool in tools)


def _call(call: object) -> ToolCall:
    if not isinstance(call, Mapping):
        raise RowProblem("a tool call is not an object")
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise RowProblem("a tool call has no function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments or "{}", f"the arguments of the call of {name}")
    if not isinstance(arguments, Mapping):
        raise RowProblem(f"the arguments of the call of {name} are not an object")
    read = ToolCall(type="function", function=ToolFunction(name=name, arguments=_without_none(arguments)))
    if isinstance(call.get("id"), str):
        read["id"] = call["id"]
    return read


def _tool(tool: object) -> Mapping[str, Any]:
    if isinstance(tool, str):
        tool = _json(tool, "a tool")
    if not isinstance(tool, Mapping):
        raise RowProblem("a tool is not an object")
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RowProblem("a tool has no name")
    told = {key: function[key] for key in _TOLD if function.get(key) not in (None, "")}
    return {"type": "function", "function": _without_none(told)}


def _without_none(value: Any) -> Any:
    """Without the keys that a table put in because other rows have them; raises RowProblem."""
    try:
        return _pruned(value)
    except RecursionError as error:
        raise RowProblem("a tool or a call is nested too deeply") from error


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _pruned(item) for key, item in value.items() if item is not None}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RowProblem(f"{what} is not JSON ({error.msg})") from error
    except RecursionError as error:
        raise RowProblem(f"{what} is nested too deeply") from error
