"""What every part of a request has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Takes no value of another type and no field it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
