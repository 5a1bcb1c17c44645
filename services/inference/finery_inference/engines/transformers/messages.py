"""What the service and a worker process tell each other, over a socket that only they have."""

from __future__ import annotations

from dataclasses import dataclass

from finery_inference.engines.protocol import Delta, EngineConfig, EngineRequest, EngineStats
from finery_shared.errors import Reason


@dataclass(frozen=True)
class Load:
    """The first command: what to load, and how much of the machine it may take."""

    config: EngineConfig
    threads: int
    kv_cache_bytes: int
    """Key-value cache on a CPU, 0 being what the length asks for; on a GPU it is a share of the card."""


@dataclass(frozen=True)
class Abort:
    """Stop the work on a request."""

    request_id: str


@dataclass(frozen=True)
class Check:
    """Give a sign of life."""


Command = Load | EngineRequest | Abort | Check


@dataclass(frozen=True)
class Ready:
    """The model is loaded."""

    max_model_len: int
    vocab_size: int
    on_gpu: bool


@dataclass(frozen=True)
class NotLoaded:
    """Loading failed."""

    reason: Reason
    message: str
    detail: str = ""


@dataclass(frozen=True)
class Step:
    """What one step of the batch made, by request, and the figures after it."""

    deltas: tuple[tuple[str, Delta], ...]
    stats: EngineStats


@dataclass(frozen=True)
class RequestFailed:
    """The engine gave a request up."""

    request_id: str
    detail: str


@dataclass(frozen=True)
class Alive:
    """The answer to a check; checks are answered in turn."""


Report = Ready | NotLoaded | Step | RequestFailed | Alive
