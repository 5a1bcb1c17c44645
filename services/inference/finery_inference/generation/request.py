"""What is asked for and what comes back, free of any transport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue

from finery_inference.engines.protocol import Finish, Structured

ToolChoice = Literal["auto", "none", "required", "function"]
AnswerFinish = Finish | Literal["tool_calls"]


@dataclass(frozen=True)
class Tool:
    """A function that may be called; ``parameters`` is the JSON schema of its arguments, None if it takes none.

    With ``strict`` the engine lets the model write only arguments that the schema accepts.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, JsonValue] | None = None
    strict: bool = False


@dataclass(frozen=True)
class ChatInput:
    """A conversation in OpenAI's shape, oldest message first, with what chat templates take beside it.

    ``tool_choice`` "function" means the tool that ``function`` names. ``variables`` go to the template.
    """

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    function: str = ""
    parallel_tool_calls: bool = True
    variables: Mapping[str, JsonValue] = field(default_factory=dict)
    characters: int = 0
    """About the length of all texts in it, schemas and arguments included."""

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return () if self.tool_choice == "none" else self.tools


@dataclass(frozen=True)
class TextInput:
    """Plain text."""

    text: str


@dataclass(frozen=True)
class TokenIdsInput:
    """Token ids."""

    token_ids: tuple[int, ...]


PromptInput = ChatInput | TextInput | TokenIdsInput


@dataclass(frozen=True)
class SamplingRequest:
    """How to choose tokens, as far as the caller said; None takes the model's default."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    n: int | None = None
    ignore_eos: bool | None = None
    structured: Structured | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    min_tokens: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """A prompt for a model id."""

    model: str
    prompt: PromptInput
    sampling: SamplingRequest = field(default_factory=SamplingRequest)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its bytes, and the natural logarithm of its probability."""

    token_id: int
    token: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """One place of an answer: the token that was chosen, and the likeliest ones, best first."""

    chosen: TokenLogprob
    top: Sequence[TokenLogprob]


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """What was learnt of a tool call; ``id`` and ``name`` come once, in its first delta."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one answer got since its last chunk. ``completion_tokens`` counts this answer's tokens so far."""

    index: int
    text: str
    token_ids: Sequence[int]
    completion_tokens: int
    logprobs: Sequence[PositionLogprobs] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True)
class Complete:
    """The end of all answers: why each ended, by index, and the tokens of the request."""

    finishes: tuple[AnswerFinish, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
