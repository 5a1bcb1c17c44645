"""Arguments: what is given, what the model's recipe suggests, what is the default; and what is refused."""

from typing import Any

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import Recipe, get
from finery_trainer.spec import fill

GIVEN: dict[str, Any] = {"datasets": ("general-en",), "output_dir": "/out"}


def test_defaults_are_those_of_the_contract() -> None:
    spec = fill(GIVEN, Recipe())
    assert (spec.learning_rate, spec.num_train_epochs, spec.batch_size) == (1e-4, 1.0, 1)
    assert (spec.lora_rank, spec.lora_alpha, spec.lora_dropout) == (8, 32.0, 0.05)
    assert spec.lora_target_modules == ("DEFAULT",)
    assert (spec.max_length, spec.eval_steps, spec.save_steps, spec.save_total_limit) == (2048, 50, 50, 2)
    assert (spec.adam_beta1, spec.adam_beta2, spec.weight_decay, spec.max_grad_norm) == (0.9, 0.95, 0.1, 1.0)
    assert (spec.lr_scheduler_type, spec.warmup_ratio, spec.neftune_noise_alpha) == ("cosine", 0.05, None)
    assert (spec.sft_type, spec.truncation_strategy, spec.early_stopping_patience) == ("lora", "delete", None)
    assert (spec.dataset_test_ratio, spec.dataset_seed, spec.seed, spec.dtype) == (0.01, 42, 42, "auto")


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 16), (4, 4), (5, 3), (16, 1), (64, 1)])
def test_a_step_has_sixteen_rows_unless_told(batch: int, accumulation: int) -> None:
    assert fill({**GIVEN, "batch_size": batch}, Recipe()).gradient_accumulation_steps == accumulation


def test_the_recipe_fills_and_the_user_wins() -> None:
    recipe = Recipe(learning_rate=2e-3, batch_size=8, gradient_accumulation_steps=1)
    spec = fill(GIVEN, recipe)
    assert (spec.learning_rate, spec.batch_size, spec.gradient_accumulation_steps) == (2e-3, 8, 1)
    spec = fill({**GIVEN, "learning_rate": 1e-5, "batch_size": 2}, recipe)
    assert (spec.learning_rate, spec.batch_size, spec.gradient_accumulation_steps) == (1e-5, 2, 8)


def test_smollm2_has_a_recipe_that_fits() -> None:
    spec = fill(GIVEN, get("smollm2-135m-instruct").recipe)
    assert spec.batch_size * spec.gradient_accumulation_steps == 8
    assert spec.lora_dropout == 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("num_train_epochs", -1.0),
        ("batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("max_length", 3),
        ("max_steps", 0),
        ("lora_rank", 0),
        ("lora_dropout", 1.0),
        ("warmup_ratio", 1.5),
        ("dataset_test_ratio", 1.0),
        ("save_total_limit", 0),
        ("lr_scheduler_type", "cosin"),
        ("dtype", "int8"),
    ],
)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(FineryError) as caught:
        fill({**GIVEN, field: value}, Recipe())
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.metadata["field"] == field
    assert caught.value.message.startswith(f"{field}: {value!r}")
