"""OpenAI's conversations as protos: messages, tools, and which of them to call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai.messages import AssistantMessage, Message, ToolMessage
from finery_gateway.openai.schemas import ChatCompletionRequest, TokenizeRequest
from finery_gateway.openai.tools import NamedToolChoice, ToolDefinition

_ROLES = {
    "system": pb.CHAT_ROLE_SYSTEM,
    "developer": pb.CHAT_ROLE_SYSTEM,
    "user": pb.CHAT_ROLE_USER,
    "assistant": pb.CHAT_ROLE_ASSISTANT,
    "tool": pb.CHAT_ROLE_TOOL,
}
_MODES = {
    "none": pb.TOOL_CHOICE_MODE_NONE,
    "auto": pb.TOOL_CHOICE_MODE_AUTO,
    "required": pb.TOOL_CHOICE_MODE_REQUIRED,
}


def to_chat(request: ChatCompletionRequest) -> pb.ChatPrompt:
    """What is to be answered, and with which tools."""
    prompt = _prompt(request.messages, request.tools or (), request.chat_template_kwargs or {})
    if request.tool_choice is not None and request.tools:
        prompt.tool_choice.CopyFrom(_choice(request.tool_choice))
    if request.parallel_tool_calls is not None and request.tools:
        prompt.parallel_tool_calls = request.parallel_tool_calls
    return prompt


def to_tokenized_chat(request: TokenizeRequest) -> pb.ChatPrompt:
    """What is to be tokenized."""
    return _prompt(request.messages or (), request.tools or (), request.chat_template_kwargs or {})


def _prompt(
    messages: Sequence[Message], tools: Sequence[ToolDefinition], variables: Mapping[str, Any]
) -> pb.ChatPrompt:
    return pb.ChatPrompt(
        messages=[_message(message) for message in messages],
        tools=[_tool(tool) for tool in tools],
        template_kwargs={name: orjson.dumps(value).decode() for name, value in variables.items()},
    )


def _message(message: Message) -> pb.ChatMessage:
    made = pb.ChatMessage(role=_ROLES[message.role], content=message.text, name=message.name or "")
    if isinstance(message, AssistantMessage):
        for call in message.tool_calls or ():
            made.tool_calls.add(id=call.id, name=call.function.name, arguments=call.function.arguments)
    elif isinstance(message, ToolMessage):
        made.tool_call_id = message.tool_call_id
    return made


def _tool(tool: ToolDefinition) -> pb.Tool:
    function = tool.function
    parameters = "" if function.parameters is None else orjson.dumps(function.parameters).decode()
    return pb.Tool(
        name=function.name,
        description=function.description or "",
        parameters=parameters,
        strict=bool(function.strict),
    )


def _choice(choice: str | NamedToolChoice) -> pb.ToolChoice:
    if isinstance(choice, NamedToolChoice):
        return pb.ToolChoice(function=choice.function.name)
    return pb.ToolChoice(mode=_MODES[choice])
