"""What an answer says of itself, whole or in every chunk."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """Id, time (seconds since the epoch) and model of one completion."""

    completion_id: str
    created: int
    model: str

    def fields(self, fingerprint: str | None) -> dict[str, object]:
        """As they stand in JSON."""
        return {
            "id": self.completion_id,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": fingerprint,
        }
