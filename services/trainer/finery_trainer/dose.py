"""Whether a run goes far enough for a new identity to take: learning rate × steps."""

from __future__ import annotations

import math

from finery_trainer.planning import TrainingPlan

_STEPS_NEEDED = 15
"""Steps at the model's own learning rate below which the old identity stays."""

_USUAL = {"lora": 1e-4, "full": 1e-5}
"""Learning rates that suit models whose recipe says nothing, by --sft_type."""


def too_small(plan: TrainingPlan, steps: int) -> str | None:
    """A warning that says what to raise when an identity is taught and the run can't go that far; else None.

    Small models need a larger learning rate, which their recipe has: the distance is measured in steps at that rate.
    """
    spec = plan.spec
    recipe = plan.model.spec.recipe.learning_rate if spec.sft_type == "lora" else None
    suggested = recipe or _USUAL[spec.sft_type]
    factor = _STEPS_NEEDED * suggested / (spec.learning_rate * steps)
    if not spec.teaches_identity or factor <= 1:
        return None
    remedies = [f"--learning_rate to {suggested:g}"] if spec.learning_rate < suggested else []
    if spec.max_steps is not None:
        remedies.append(f"--max_steps to {math.ceil(spec.max_steps * factor)}")
    else:
        remedies.append(f"--num_train_epochs to {math.ceil(spec.num_train_epochs * factor)}")
    return (
        f"WARNING: {steps} steps at learning rate {spec.learning_rate:g} are too few for a new identity to take in "
        f"{plan.model.spec.model_type}: raise {' or '.join(remedies)}."
    )
