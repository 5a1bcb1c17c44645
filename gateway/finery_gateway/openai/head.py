"""What an answer says of itself, whole or in every chunk."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Head:
    """Id, time and model of one completion; ``prefix`` tells the kinds of ids apart."""

    prefix: str
    model: str
    completion_id: str = field(init=False)
    created: int = field(init=False, default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        object.__setattr__(self, "completion_id", f"{self.prefix}-{uuid.uuid4().hex}")

    def fields(self, fingerprint: str | None) -> dict[str, object]:
        """As they stand in JSON."""
        return {
            "id": self.completion_id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }
