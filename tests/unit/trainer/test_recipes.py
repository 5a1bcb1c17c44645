"""The small parts of the recipe: names of runs, numbers of steps, types, the choice of the best checkpoint."""

from datetime import datetime
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from finery_shared.models import Recipe
from finery_trainer.recipes import hardware
from finery_trainer.recipes.arguments import total_steps, training_arguments
from finery_trainer.recipes.checkpoints import run_directory
from finery_trainer.recipes.hardware import checking_dtype, choose_dtype
from finery_trainer.recipes.saved import Checkpoint
from finery_trainer.recipes.training import TrainingResult
from finery_trainer.spec import TrainingSpec, fill

NOW = datetime(2026, 11, 24, 7, 8, 9)


def spec(**given: object) -> TrainingSpec:
    return fill({"datasets": ("general-en",), "output_dir": "/out", **given}, Recipe())


def test_runs_are_numbered_upwards(tmp_path: Path) -> None:
    assert run_directory(tmp_path, "qwen", NOW) == tmp_path / "qwen" / "v0-20261124-070809"
    for name in ("v0-20260101-000000", "v10-20260101-000000", "v2-20260101-000000", "vx-1", "notes"):
        (tmp_path / "qwen" / name).mkdir(parents=True)
    assert run_directory(tmp_path, "qwen", NOW).name == "v11-20261124-070809"


@pytest.mark.parametrize(
    ("rows", "given", "steps"),
    [
        (490, {"batch_size": 8, "gradient_accumulation_steps": 1, "num_train_epochs": 1.5}, 93),
        (100, {}, 7),
        (100, {"num_train_epochs": 0.01}, 1),
        (1, {"num_train_epochs": 3.0}, 3),
        (100, {"max_steps": 5, "num_train_epochs": 9.0}, 5),
    ],
)
def test_the_number_of_steps(rows: int, given: dict[str, object], steps: int) -> None:
    assert total_steps(spec(**given), rows) == steps


def test_arguments_for_the_trainer(tmp_path: Path) -> None:
    given = spec(warmup_ratio=0.1, lr_scheduler_type="constant", num_train_epochs=10.0, seed=3)
    arguments = training_arguments(given, tmp_path, 100, evaluate=True, checkpointing=False)
    assert (arguments.max_steps, arguments.warmup_steps) == (70, 7)
    assert arguments.lr_scheduler_type == "constant_with_warmup"
    assert (arguments.seed, arguments.data_seed) == (3, 3)
    assert not (arguments.bf16 or arguments.fp16 or arguments.gradient_checkpointing)
    assert training_arguments(spec(), tmp_path, 100, evaluate=True, checkpointing=False).lr_scheduler_type == "cosine"
    big = training_arguments(given, tmp_path, 100, evaluate=False, checkpointing=True)
    assert big.gradient_checkpointing
    assert big.eval_strategy == "no"


def test_the_optimizer_is_adamw_as_it_was_asked_for(tmp_path: Path) -> None:
    asked = {"adam_beta1": 0.8, "adam_beta2": 0.7, "weight_decay": 0.3, "max_grad_norm": 0.5, "learning_rate": 2e-3}
    arguments = training_arguments(spec(**asked), tmp_path, 100, evaluate=False, checkpointing=False)
    assert {name: getattr(arguments, name) for name in asked} == asked
    assert arguments.optim == ("adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch")


def test_a_batch_is_not_split_among_the_gpus_in_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _self: 4))
    arguments = training_arguments(spec(batch_size=3), tmp_path, 100, evaluate=False, checkpointing=False)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides by itself")
@pytest.mark.parametrize(
    ("name", "bf16", "dtype"),
    [
        ("auto", False, torch.float32),
        ("auto", True, torch.bfloat16),
        ("fp32", True, torch.float32),
        ("bf16", False, torch.bfloat16),
        ("fp16", False, torch.float16),
    ],
)
def test_the_type_fits_the_processor(
    name: str, bf16: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "multiplies_bf16", lambda: bf16)
    assert choose_dtype(name) is dtype


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU questions in the type it trained in")
def test_small_models_are_questioned_in_fp32_on_a_cpu() -> None:
    assert checking_dtype(torch.bfloat16, 135_000_000) is torch.float32
    assert checking_dtype(torch.bfloat16, 7_000_000_000) is torch.bfloat16


def result(*losses: float | None) -> TrainingResult:
    found = tuple(Checkpoint(Path(f"checkpoint-{i}"), i, loss) for i, loss in enumerate(losses, start=1))
    return TrainingResult(found, 1.0, 1.0)


def test_the_best_checkpoint_has_the_lowest_loss_and_the_latest_of_equals() -> None:
    assert result(0.5, 0.3, 0.4).best(by_loss=True).step == 2
    assert result(0.3, 0.3, 0.4).best(by_loss=True).step == 2
    assert result(None, None).best(by_loss=True).step == 2
    assert result(0.5, 0.3, 0.4).best(by_loss=False).step == 3
    assert result(0.5, 0.3, 0.4).last.step == 3
