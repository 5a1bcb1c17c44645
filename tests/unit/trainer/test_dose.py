"""The warning that a run is too short, or its learning rate too small, for an identity."""

from pathlib import Path
from typing import Any

import pytest

from finery_shared.models import ResolvedModel, get
from finery_trainer.dose import too_small
from finery_trainer.planning import TrainingPlan
from finery_trainer.spec import fill


def plan(model_type: str, dataset: str = "self-cognition#500", **given: Any) -> TrainingPlan:
    model = get(model_type)
    spec = fill({"datasets": (dataset,), "output_dir": "/out", **given}, model.recipe)
    return TrainingPlan(spec, ResolvedModel(Path("/model"), model), model.targets.all)


@pytest.mark.parametrize(
    ("model_type", "steps"), [("smollm2-135m-instruct", 74), ("qwen1half-7b-chat", 93), ("smollm2-1_7b-instruct", 93)]
)
def test_the_default_recipes_go_far_enough(model_type: str, steps: int) -> None:
    assert too_small(plan(model_type), steps) is None


def test_a_small_model_at_a_large_models_learning_rate() -> None:
    warning = too_small(plan("smollm2-135m-instruct", learning_rate=1e-4), 93)
    assert warning is not None
    assert "93 steps at learning rate 0.0001" in warning
    assert "raise --learning_rate to 0.002 or --num_train_epochs to 4." in warning


def test_too_few_steps() -> None:
    warning = too_small(plan("qwen1half-7b-chat", max_steps=5), 5)
    assert warning is not None
    assert warning.endswith("raise --max_steps to 15.")
    warning = too_small(plan("qwen1half-7b-chat", num_train_epochs=2.0), 6)
    assert warning is not None
    assert warning.endswith("raise --num_train_epochs to 5.")


def test_full_training_has_a_learning_rate_of_its_own() -> None:
    assert too_small(plan("qwen1half-7b-chat", sft_type="full", learning_rate=1e-5), 30) is None
    warning = too_small(plan("qwen1half-7b-chat", sft_type="full", learning_rate=1e-6), 30)
    assert warning is not None
    assert "--learning_rate to 1e-05" in warning


def test_runs_that_teach_no_identity_are_not_warned_about() -> None:
    assert too_small(plan("smollm2-135m-instruct", "general-en", learning_rate=1e-6), 3) is None
