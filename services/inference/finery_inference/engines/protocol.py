"""What the service needs of an engine, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pydantic import JsonValue

from finery_shared.templates import ChatTokenizer

Finish = Literal["stop", "length"]

MOST_ADAPTERS = 64
"""Adapters that an engine keeps at a time."""

HIGHEST_RANK = 512
"""Of an adapter."""


@dataclass(frozen=True)
class LoraLimits:
    """What an engine that takes adapters makes room for."""

    batch: int
    """Adapters that the requests of one step may use."""
    rank: int
    """Highest rank."""


@dataclass(frozen=True)
class EngineConfig:
    """What to load. None leaves a choice to the engine; ``max_model_len`` is then the model's own, if memory allows."""

    model: Path
    max_model_len: int | None = None
    dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int = 1
    lora: LoraLimits | None = None
    """None: the engine takes no adapters."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Further arguments by the engine's own names."""


@dataclass(frozen=True)
class EngineAdapter:
    """A LoRA adapter as engines know it. Its number, 1 or more, and its name are never another one's."""

    number: int
    name: str
    path: Path


@dataclass(frozen=True)
class Structured:
    """A shape that an answer has to have: JSON that a schema accepts, any JSON object, a text that a regular expression
    matches as a whole, one of several texts, or what a structural tag of xgrammar describes.
    """

    kind: Literal["json_schema", "json_object", "regex", "choices", "structural_tag"]
    value: str | tuple[str, ...] = ""
    """The schema as JSON, nothing, the expression, the texts, or the tag as JSON."""


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, every default filled in. ``top_k`` 0 is all tokens."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    n: int = 1
    ignore_eos: bool = False
    structured: Structured | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    logprobs: int | None = None
    """Tell how likely each token was, and so many of the likeliest ones; None is neither."""
    min_tokens: int = 0
    """Before them neither an end of turn nor a stop text counts."""


@dataclass(frozen=True)
class EngineRequest:
    """One prompt, at least one token long, and ``sampling.n`` answers to it."""

    request_id: str
    token_ids: Sequence[int]
    sampling: Sampling
    adapter: EngineAdapter | None = None
    """One that the engine has loaded, or the model as it is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could stand at a place, with the natural logarithm of its probability: finite, at most 0."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Position:
    """One place of an answer: the token that was chosen, and the likeliest ones, best first."""

    chosen: Candidate
    top: Sequence[Candidate]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one of the answers got since its last delta; the last one of an answer says why it ended."""

    index: int
    text: str
    token_ids: Sequence[int]
    finish: Finish | None = None
    cached_tokens: int = 0
    """Tokens of the prompt that were in the prefix cache."""
    logprobs: Sequence[Position] = ()
    """One for each of the tokens, if they were asked for."""


@dataclass(frozen=True)
class EngineStats:
    """The engine's own figures. ``kv_cache_usage`` is a share, from 0 to 1."""

    running: int
    waiting: int
    kv_cache_usage: float
    generated_tokens: int


@dataclass(frozen=True)
class Vitals:
    """Whether an engine gets on, told without asking its processes."""

    waiting: int
    """Requests and checks that it has yet to make something for."""
    steps: int
    """Grows with every step of its scheduler and every check that it answers."""
    cpu_seconds: float = 0.0
    """Processor time of its processes, if that shows that they compute; 0 on a GPU, where those who wait spin."""


class Tokenizer(ChatTokenizer, Protocol):
    """The model's tokenizer. Its methods may be called from threads."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Token ids to text."""


class InferenceEngine(Protocol):
    """A loaded model."""

    @property
    def max_model_len(self) -> int:
        """Longest prompt and answer together, in tokens."""

    @property
    def vocab_size(self) -> int:
        """Every token id is below it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    @property
    def alive(self) -> bool:
        """False once the engine died or was shut down; it never comes back."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[Delta, None]:
        """The answers' deltas, as they are made; closing the generator aborts the request in the engine.

        Raises ENGINE_DEAD when the engine dies or is shut down meanwhile, DEPLOYMENT_NOT_READY when its adapter is
        unloaded, INVALID_ARGUMENT for what it refuses.
        """

    async def load_adapter(self, adapter: EngineAdapter) -> None:
        """Load an adapter beside the model's weights; what runs goes on.

        Raises ENGINE_FAILED for one that does not fit the model, ENGINE_DEAD.
        """

    async def unload_adapter(self, adapter: EngineAdapter) -> None:
        """End the requests that use an adapter, by DEPLOYMENT_NOT_READY, and unload it. Harmless if it is not there."""

    async def stats(self) -> EngineStats:
        """The engine's own figures. Raises ENGINE_DEAD."""

    @property
    def vitals(self) -> Vitals:
        """Whether it gets on."""

    async def check(self) -> None:
        """Wait for a sign of life from the engine's process. Raises ENGINE_DEAD."""

    def kill(self) -> None:
        """End the engine's processes at once, hung ones too; `shutdown` is still to be called."""

    async def shutdown(self) -> None:
        """End the engine and its processes; running requests end with ENGINE_DEAD. Harmless when it is dead.

        Every call waits for the end, one that comes while another is under way too.
        """


class EngineFactory(Protocol):
    """Starts engines of one kind."""

    @property
    def takes_adapters(self) -> bool:
        """Whether its engines can load LoRA adapters."""

    async def prepare(self) -> None:
        """Begin what every start needs, in the background."""

    def check(self, arguments: Mapping[str, JsonValue]) -> None:
        """Refuse further arguments that no engine of this kind may get, by INVALID_ARGUMENT naming them."""

    async def start(self, config: EngineConfig) -> InferenceEngine:
        """Load a model. When the call is cancelled, it ends when what it began is undone; cancelled again, at once.

        Raises INVALID_ARGUMENT or ENGINE_FAILED for a model or arguments that can't work, ENGINE_DEAD when a process of
        the engine was ended from outside.
        """

    async def close(self) -> None:
        """End what unfinished starts left behind."""
