"""What a deployment is, and what its adapters are."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from pydantic import BaseModel, ConfigDict, JsonValue

from finery_shared.errors import FineryError

MODEL_ID = re.compile(r"[^\s\x00-\x1f]{1,200}")
"""What clients can ask for a model by."""


class DeploymentSpec(BaseModel):
    """What was asked for. Empty strings and None are unset; at most one of ckpt_dir and a model is given."""

    model_config = ConfigDict(frozen=True)

    ckpt_dir: str = ""
    model_type: str = ""
    model_id_or_path: str = ""
    served_model_name: str = ""
    infer_backend: str = "vllm"
    max_model_len: int | None = None
    dtype: str = "auto"
    gpu_memory_utilization: float | None = None
    tensor_parallel_size: int | None = None
    engine_args: dict[str, JsonValue] = {}
    enable_lora: bool = False
    max_loras: int = 4
    max_lora_rank: int = 64


class AdapterSpec(BaseModel):
    """What was asked for: a directory, and a model id or nothing."""

    model_config = ConfigDict(frozen=True)

    ckpt_dir: str
    served_model_name: str = ""


@dataclass(frozen=True)
class DeploymentRecord:
    """A stored deployment."""

    ordinal: int
    name: str
    spec: DeploymentSpec
    model_id: str
    model_type: str
    create_time: datetime


@dataclass(frozen=True)
class AdapterRecord:
    """A stored adapter of the deployment named ``parent``; no other adapter ever has its ordinal."""

    ordinal: int
    name: str
    parent: str
    spec: AdapterSpec
    model_id: str
    create_time: datetime


class State(Enum):
    """Where a deployment or an adapter is in its life."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True)
class Adapter:
    """An adapter at one moment: READY only while its deployment is. ``error`` is set in FAILED alone."""

    record: AdapterRecord
    state: State
    error: FineryError | None = None


@dataclass(frozen=True)
class Deployment:
    """A deployment at one moment. ``error`` is set in FAILED alone, ``max_model_len`` is 0 until it was READY.

    ``restarts`` counts how often its engine was started again after it died.
    """

    record: DeploymentRecord
    state: State
    error: FineryError | None = None
    max_model_len: int = 0
    adapters: tuple[Adapter, ...] = ()
    """Oldest first."""
    restarts: int = 0


@dataclass(frozen=True)
class Snapshot:
    """All deployments of the process; the same revision means the same content."""

    revision: int
    deployments: tuple[Deployment, ...]
    draining: bool
