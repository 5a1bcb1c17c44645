"""Requests of OpenAI's API, checked."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from finery_gateway.openai.messages import Message
from finery_gateway.openai.shape import ResponseFormat, StructuredOutputs
from finery_gateway.openai.strict import Strict
from finery_gateway.openai.tools import (
    MOST_TOOLS,
    JsonObject,
    ToolChoice,
    ToolDefinition,
    check_choice,
    check_template_kwargs,
)

ModelId = Annotated[str, Field(min_length=1, max_length=256)]
TokenCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]
MOST_PROMPTS = 128
"""Of one request for completions."""
Penalty = Annotated[float, Field(ge=-2, le=2)]
Tools = Annotated[list[ToolDefinition], Field(max_length=MOST_TOOLS)]
StopTexts = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(max_length=16),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


def _check_tokens(value: Any) -> Any:
    for token in value if isinstance(value, dict) else ():
        if not (token.isascii() and token.isdigit() and len(token) <= 10 and int(token) < 2**32):
            raise PydanticCustomError(
                "conflict",
                "Invalid key in 'logit_bias': '{key}'. Keys are token ids, written as strings of digits.",
                {"param": "logit_bias", "key": token[:20]},
            )
    return value


LogitBias = Annotated[dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_check_tokens)]


class StreamOptions(Strict):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Obfuscation pads OpenAI's own frames; Finery never does, so both values are taken."""


class SamplingRequest(Strict):
    """What both kinds of completion take: OpenAI's parameters, and those of vLLM's that Finery serves."""

    model: ModelId
    max_tokens: TokenCount | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: StopTexts | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    response_format: ResponseFormat | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    stop_token_ids: list[TokenId] | None = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    structured_outputs: StructuredOutputs | None = None

    # They change no answer: labels for the caller's own books, and hints to caches.
    user: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @model_validator(mode="after")
    def _streams(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "conflict",
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
                {"param": "stream_options"},
            )
        return self

    @model_validator(mode="after")
    def _one_shape(self) -> Self:
        shaped = self.response_format is not None and self.response_format.type != "text"
        if shaped and self.structured_outputs is not None:
            raise PydanticCustomError(
                "conflict",
                "'response_format' and 'structured_outputs' can't be used together.",
                {"param": "structured_outputs"},
            )
        return self

    @property
    def include_usage(self) -> bool:
        """Whether the stream ends with a usage chunk."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatCompletionRequest(SamplingRequest):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: TokenCount | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: JsonObject | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _logprobs_with_top_logprobs(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise PydanticCustomError(
                "conflict",
                "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
                {"param": "top_logprobs"},
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise PydanticCustomError(
                "conflict",
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
                {"param": "max_tokens"},
            )
        return self

    @model_validator(mode="after")
    def _tools_agree(self) -> Self:
        check_choice(self.tools or (), self.tool_choice)
        check_template_kwargs(self.chat_template_kwargs or {})
        return self


TokenIds = Annotated[list[TokenId], Field(min_length=1)]


def _prompt_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "pick:text"
    first = value[0] if isinstance(value, list) and value else None
    kinds = {str: "pick:texts", int: "pick:ids", list: "pick:several"}
    return kinds.get(type(first))


Prompt = Annotated[
    Annotated[str, Tag("pick:text")]
    | Annotated[Annotated[list[str], Field(max_length=MOST_PROMPTS)], Tag("pick:texts")]
    | Annotated[TokenIds, Tag("pick:ids")]
    | Annotated[Annotated[list[TokenIds], Field(max_length=MOST_PROMPTS)], Tag("pick:several")],
    Discriminator(
        _prompt_kind, custom_error_type="prompt_type", custom_error_message="expected a text, token ids, or a list"
    ),
]


class CompletionRequest(SamplingRequest):
    """``POST /v1/completions``."""

    prompt: Prompt
    max_tokens: TokenCount | None = 16
    """As OpenAI's: 16, unless null asks for all that is left of the context."""
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or several, all of a kind."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt


class TokenizeRequest(Strict):
    """``POST /tokenize``, as vLLM has it: a text, or a conversation with the beginning of its answer."""

    model: ModelId
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: Tools | None = None
    chat_template_kwargs: JsonObject | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError(
                "conflict", "Exactly one of 'prompt' and 'messages' is needed.", {"param": "prompt"}
            )
        if self.prompt is not None and (self.tools or self.chat_template_kwargs):
            param = "tools" if self.tools else "chat_template_kwargs"
            raise PydanticCustomError("conflict", f"'{param}' is only allowed with 'messages'.", {"param": param})
        check_choice(self.tools or (), None)
        check_template_kwargs(self.chat_template_kwargs or {})
        return self
