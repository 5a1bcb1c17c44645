"""What a fine-tuning run depends on: every argument, checked, none left open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finery_shared.datasets import parse
from finery_shared.datasets.registry import find
from finery_shared.errors import FineryError, invalid
from finery_shared.models import Recipe

ROWS_A_STEP = 16
"""Rows of one optimizer step, unless batch size and accumulation say otherwise."""

SELF_COGNITION = "self-cognition"

Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingSpec(BaseModel):
    """The arguments of one job, by the names that the command line gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model_type: str = ""
    model_id_or_path: str = ""
    datasets: tuple[str, ...]
    dataset_test_ratio: Share = 0.01
    dataset_seed: int = 42
    model_names: tuple[str, ...] = ()
    model_authors: tuple[str, ...] = ()
    system: str | None = None
    val_datasets: tuple[str, ...] = ()
    max_length: Annotated[int, Field(ge=8, le=2**31 - 1)] = 2048
    truncation_strategy: Literal["delete", "truncation_left"] = "delete"
    output_dir: str
    resume_from_checkpoint: str = ""

    sft_type: Literal["lora", "full"] = "lora"
    lora_rank: Annotated[int, Field(ge=1, le=1024)] = 8
    lora_alpha: Annotated[float, Field(gt=0, le=2**16)] = 32.0
    lora_dropout: Share = 0.05
    lora_target_modules: tuple[str, ...] = ("DEFAULT",)
    use_rslora: bool = False
    use_dora: bool = False

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    num_train_epochs: Annotated[float, Field(gt=0, le=10_000)] = 1.0
    max_steps: Positive | None = None
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 1
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=65536)]
    weight_decay: Annotated[float, Field(ge=0, le=10)] = 0.1
    warmup_ratio: Share = 0.05
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "cosine"
    adam_beta1: Share = 0.9
    adam_beta2: Share = 0.95
    neftune_noise_alpha: Annotated[float, Field(gt=0, le=1000)] | None = None

    eval_steps: Positive = 50
    save_steps: Positive = 50
    save_total_limit: Positive = 2
    logging_steps: Positive = 5
    early_stopping_patience: Positive | None = None

    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    base_precision: Literal["auto", "fp8"] = "auto"
    deepspeed: str = ""
    cuda_visible_devices: str | None = None
    nproc_per_node: Annotated[int, Field(ge=1, le=1024)] = 1

    @property
    def teaches_identity(self) -> bool:
        """Whether the model is given a new name, so that asking for it afterwards makes sense."""
        entries = [find(parse(text).name) for text in self.datasets]
        return any(entry is not None and entry.name == SELF_COGNITION for entry in entries)


FULL_LEARNING_RATE = 1e-5
"""Default where every parameter is trained; the rates of models' recipes are for LoRA."""


def fill(given: Mapping[str, Any], recipe: Recipe) -> TrainingSpec:
    """The spec of what was given, completed from the model's recipe, then from the defaults.

    Raises INVALID_ARGUMENT naming the field.
    """
    suggested = {key: value for key, value in asdict(recipe).items() if value is not None}
    if given.get("sft_type") == "full":
        suggested["learning_rate"] = FULL_LEARNING_RATE
    if "batch_size" in given:
        # The recipe's accumulation belongs to the recipe's batch.
        suggested.pop("gradient_accumulation_steps", None)
    values = {**suggested, **given}
    ranks = max(1, values.get("nproc_per_node", 1))
    if "batch_size" not in given and "batch_size" in values:
        # The recipe's batch is that of a whole step.
        values["batch_size"] = max(1, values["batch_size"] // ranks)
    if "gradient_accumulation_steps" not in values:
        batch = values.get("batch_size", 1) * ranks
        values["gradient_accumulation_steps"] = max(1, ROWS_A_STEP // batch) if batch > 0 else 1
    try:
        return TrainingSpec(**values)
    except ValidationError as error:
        raise _refused(error) from error


def _refused(error: ValidationError) -> FineryError:
    first = error.errors()[0]
    field = str(first["loc"][0])
    return invalid(field, f"{first.get('input')!r} won't do: {first['msg'].lower()}.")
