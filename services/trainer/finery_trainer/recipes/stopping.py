"""When a run ends early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finery_trainer.recipes.saved import eval_losses


def loss_stopped_falling(log_history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last ``patience`` evaluations all failed to undercut the lowest loss before them."""
    if patience is None:
        return False
    losses = list(eval_losses(log_history).values())
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])
