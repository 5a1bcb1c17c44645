"""A chat prompt of the contract as the domain has it: messages in OpenAI's shape, tools, template variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finery.inference.v1 import inference_pb2 as ipb
from finery_inference.convert_json import json_value
from finery_inference.generation.request import ChatInput, Tool, ToolChoice
from finery_shared.datasets.problems import RowProblem
from finery_shared.datasets.tools import read_calls
from finery_shared.errors import invalid
from finery_shared.templates.variables import FIELD, check_variables

_ROLES = {
    ipb.CHAT_ROLE_SYSTEM: "system",
    ipb.CHAT_ROLE_USER: "user",
    ipb.CHAT_ROLE_ASSISTANT: "assistant",
    ipb.CHAT_ROLE_TOOL: "tool",
}
_MODES: Mapping[int, ToolChoice] = {
    ipb.TOOL_CHOICE_MODE_UNSPECIFIED: "auto",
    ipb.TOOL_CHOICE_MODE_AUTO: "auto",
    ipb.TOOL_CHOICE_MODE_NONE: "none",
    ipb.TOOL_CHOICE_MODE_REQUIRED: "required",
}


def chat_input(prompt: ipb.ChatPrompt) -> ChatInput:
    """Raises INVALID_ARGUMENT."""
    tools = tuple(_tool(tool, f"tools[{at}]") for at, tool in enumerate(prompt.tools))
    check_variables(prompt.template_kwargs)
    return ChatInput(
        messages=tuple(_message(message, f"messages[{at}]") for at, message in enumerate(prompt.messages)),
        tools=tools,
        tool_choice=_choice(prompt.tool_choice, tools),
        function=prompt.tool_choice.function,
        parallel_tool_calls=prompt.parallel_tool_calls if prompt.HasField("parallel_tool_calls") else True,
        variables={name: json_value(f"{FIELD}.{name}", text) for name, text in prompt.template_kwargs.items()},
        characters=prompt.ByteSize(),
    )


def _message(message: ipb.ChatMessage, field: str) -> Mapping[str, Any]:
    """The keys that a message of a data set has, so that both render alike."""
    role = _ROLES.get(message.role)
    if role is None:
        raise invalid(f"{field}.role", "it must be system, user, assistant or tool.")
    made: dict[str, Any] = {"role": role, "content": message.content}
    if message.tool_calls:
        made["tool_calls"] = _calls(message, f"{field}.tool_calls")
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    if message.name:
        made["name"] = message.name
    return made


def _calls(message: ipb.ChatMessage, field: str) -> list[Any]:
    if message.role != ipb.CHAT_ROLE_ASSISTANT:
        raise invalid(field, "only an assistant's message calls tools.")
    calls: list[dict[str, Any]] = [
        {"type": "function", "function": {"name": call.name, "arguments": call.arguments}} | _id(call)
        for call in message.tool_calls
    ]
    try:
        return list(read_calls({"tool_calls": calls}))
    except RowProblem as problem:
        raise invalid(field, f"{problem}; give each call a name, and its arguments as a JSON object.") from problem


def _id(call: ipb.ToolCall) -> dict[str, Any]:
    return {"id": call.id} if call.id else {}


def _tool(tool: ipb.Tool, field: str) -> Tool:
    if not tool.name:
        raise invalid(f"{field}.name", "it is empty; name the function.")
    parameters = json_value(f"{field}.parameters", tool.parameters) if tool.parameters else None
    if parameters is not None and not isinstance(parameters, dict):
        raise invalid(f"{field}.parameters", "it must be a JSON schema of an object.")
    return Tool(tool.name, tool.description, parameters, tool.strict)


def _choice(choice: ipb.ToolChoice, tools: tuple[Tool, ...]) -> ToolChoice:
    if choice.function and choice.function not in {tool.name for tool in tools}:
        raise invalid("tool_choice", f"there is no tool {choice.function!r}; name one of the tools.")
    mode = "function" if choice.function else _MODES.get(choice.mode)
    if mode is None:
        raise invalid("tool_choice", "it must be auto, none, required or a function's name.")
    if mode == "required" and not tools:
        raise invalid("tool_choice", "a call is required, but there are no tools; give some.")
    return mode
