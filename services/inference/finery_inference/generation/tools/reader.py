"""How one request's answers are read for tool calls."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

from finery_inference.engines.protocol import Sampling, Structured
from finery_inference.generation.loaded import LoadedModel
from finery_inference.generation.request import ChatInput, PromptInput, ToolCallDelta
from finery_inference.generation.tools.constraint import constraint
from finery_inference.generation.tools.formats import FORMATS
from finery_inference.generation.tools.parser import CallDelta, Parsed, ToolCallParser, ToolFormat
from finery_shared.errors import FineryError, Reason, invalid


class AnswerReader:
    """Reads one answer, in pieces; ``most`` bounds its calls, and further ones are dropped."""

    def __init__(self, parser: ToolCallParser, most: int | None) -> None:
        self._parser = parser
        self._most = most
        self.called = False
        """Whether the answer has asked for a call."""

    def read(self, text: str, last: bool) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text and the calls of a piece; ``last`` says that no other follows."""
        parsed = self._parser.feed(text)
        if last:
            rest = self._parser.finish()
            parsed = Parsed(parsed.text + rest.text, parsed.calls + rest.calls)
        calls = tuple(_delta(call) for call in parsed.calls if self._most is None or call.index < self._most)
        self.called = self.called or bool(calls)
        return parsed.text, calls


@dataclass(frozen=True)
class ToolUse:
    """What a request's answers may call."""

    style: ToolFormat
    names: frozenset[str]
    most: int | None
    constraint: Structured | None

    def constrained(self, sampling: Sampling) -> Sampling:
        """The sampling that makes calls as the request has them; raises INVALID_ARGUMENT for a second shape."""
        if self.constraint is not None and sampling.structured is not None:
            raise invalid(
                "tool_choice",
                "calls that are required, named or strict can't be had together with another shape of the answer, as "
                "response_format asks for; leave out one of them.",
            )
        return replace(sampling, structured=self.constraint or sampling.structured)

    def reader(self) -> AnswerReader:
        """For one answer."""
        return AnswerReader(self.style.parser(self.names), self.most)


def tool_use(model: LoadedModel, prompt: PromptInput) -> ToolUse | None:
    """What may be called; None if nothing may. Raises UNSUPPORTED for a model that calls no tools."""
    if not isinstance(prompt, ChatInput) or not prompt.offered:
        return None
    style = FORMATS.get(model.tool_parser or "")
    if style is None:
        raise FineryError(
            Reason.UNSUPPORTED,
            "tools: this model's chat template knows no tools, or calls them in a format that Finery can't read. Leave "
            "tools out, or use a model that calls them, as Qwen2.5, Qwen3 or Llama 3.1 do.",
            field="tools",
        )
    most = 1 if prompt.tool_choice == "function" or not prompt.parallel_tool_calls else None
    return ToolUse(style, frozenset(tool.name for tool in prompt.tools), most, constraint(style, prompt))


def _delta(call: CallDelta) -> ToolCallDelta:
    return ToolCallDelta(call.index, f"call_{uuid.uuid4().hex[:24]}" if call.name else "", call.name, call.arguments)
