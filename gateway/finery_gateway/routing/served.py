"""What a model id stands for: a deployment, or an adapter of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from finery.inference.v1 import deployments_pb2


@dataclass(frozen=True)
class Served:
    """A model id as a backend last told it."""

    model_id: str
    state: deployments_pb2.DeploymentState.ValueType
    error: str
    """Why it failed, for people; empty in other states."""
    created: float
    """When, in seconds since the epoch."""
    max_model_len: int
    root: str
    """Where its weights come from."""
    fingerprint: str
    """Changes when its configuration does; OpenAI's system_fingerprint."""
    parent: str | None = None
    """The model id of an adapter's base."""

    @property
    def order(self) -> tuple[float, bool, str]:
        """Sorts by creation, a base before its adapters."""
        return self.created, self.parent is not None, self.model_id


def served_by(deployment: deployments_pb2.Deployment) -> Iterator[Served]:
    """The deployment's own model id, and those of its adapters."""
    spec = deployment.spec
    base = deployment.model_type.encode(), spec.SerializeToString(deterministic=True)
    yield Served(
        model_id=deployment.model_id,
        state=deployment.state,
        error=deployment.error.message,
        created=_seconds(deployment.create_time),
        max_model_len=deployment.max_model_len,
        root=spec.ckpt_dir or spec.model.model_id_or_path or deployment.model_type,
        fingerprint=_fingerprint(*base),
    )
    for adapter in deployment.adapters:
        yield Served(
            model_id=adapter.model_id,
            state=adapter.state,
            error=adapter.error.message,
            created=_seconds(adapter.create_time),
            max_model_len=deployment.max_model_len,
            root=adapter.spec.ckpt_dir,
            fingerprint=_fingerprint(*base, adapter.spec.SerializeToString(deterministic=True)),
            parent=deployment.model_id,
        )


def _seconds(stamp: Timestamp) -> float:
    return stamp.seconds + stamp.nanos / 1e9


def _fingerprint(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return f"fp_{digest.hexdigest()[:10]}"
