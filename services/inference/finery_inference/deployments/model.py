"""What a deployment is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from pydantic import BaseModel, ConfigDict, JsonValue

from finery_shared.errors import FineryError


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


@dataclass(frozen=True)
class DeploymentRecord:
    """A stored deployment."""

    ordinal: int
    name: str
    spec: DeploymentSpec
    model_id: str
    model_type: str
    create_time: datetime


class State(Enum):
    """Where a deployment is in its life."""

    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"


@dataclass(frozen=True)
class Deployment:
    """A deployment at one moment. ``error`` is set in FAILED alone, ``max_model_len`` is 0 until it was READY."""

    record: DeploymentRecord
    state: State
    error: FineryError | None = None
    max_model_len: int = 0


@dataclass(frozen=True)
class Snapshot:
    """All deployments of the process; the same revision means the same content."""

    revision: int
    deployments: tuple[Deployment, ...]
    draining: bool
