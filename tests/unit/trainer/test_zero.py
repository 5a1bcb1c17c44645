import json
from pathlib import Path
from typing import Any

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import Recipe
from finery_trainer import zero
from finery_trainer.spec import TrainingSpec, fill


def spec_with(deepspeed: str, **given: Any) -> TrainingSpec:
    values = {"batch_size": 2, "gradient_accumulation_steps": 4, "nproc_per_node": 2, **given}
    return fill({"datasets": ("x",), "output_dir": "/out", "deepspeed": deepspeed, **values}, Recipe())


def file_with(directory: Path, config: object) -> str:
    path = directory / "ds.json"
    path.write_text(json.dumps(config))
    return str(path)


@pytest.mark.parametrize(("name", "stage"), [("default-zero2", 2), ("default-zero3", 3)])
def test_a_default_takes_batches_and_clipping_from_the_spec(name: str, stage: int) -> None:
    config = zero.read(spec_with(name, max_grad_norm=0.5))
    assert zero.stage(config) == stage
    assert config["train_micro_batch_size_per_gpu"] == 2
    assert config["gradient_accumulation_steps"] == 4
    assert config["train_batch_size"] == 16
    assert config["gradient_clipping"] == 0.5


def test_reading_leaves_the_default_as_it_is() -> None:
    zero.complete(zero.read(spec_with("default-zero3")), dtype="bf16", hidden_size=8, full=False)
    assert zero.read(spec_with("default-zero3"))["zero_optimization"]["reduce_bucket_size"] == "auto"


def test_a_file_keeps_what_it_says_and_gets_what_it_leaves_open(tmp_path: Path) -> None:
    given = {
        "train_batch_size": "auto",
        "gradient_accumulation_steps": 4,
        "zero_optimization": {"stage": 3, "reduce_bucket_size": 77, "stage3_prefetch_bucket_size": "auto"},
        "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}},
        "wall_clock_breakdown": True,
    }
    config = zero.complete(zero.read(spec_with(file_with(tmp_path, given))), dtype="bf16", hidden_size=100, full=False)
    assert config["train_batch_size"] == 16
    assert config["wall_clock_breakdown"] is True
    assert config["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 77,
        "stage3_prefetch_bucket_size": 9000,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    assert "optimizer" not in config and "scheduler" not in config


@pytest.mark.parametrize(
    ("name", "dtype", "full", "mixed"),
    [
        ("default-zero2", "bf16", False, set()),  # the adapter stays in fp32
        ("default-zero2", "bf16", True, {"bf16"}),
        ("default-zero3", "bf16", False, {"bf16"}),
        ("default-zero3", "fp16", False, {"fp16"}),
        ("default-zero3", "fp32", True, set()),
    ],
)
def test_mixed_precision_is_on_where_it_is_needed(name: str, dtype: str, full: bool, mixed: set[str]) -> None:
    config = zero.complete(zero.read(spec_with(name)), dtype=dtype, hidden_size=8, full=full)
    assert {key for key in ("bf16", "fp16") if config[key]["enabled"]} == mixed


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"train_micro_batch_size_per_gpu": 8}, "--batch_size is 2"),
        ({"gradient_accumulation_steps": 1}, "--gradient_accumulation_steps is 4"),
        ({"train_batch_size": 8}, "is 16"),
        ({"gradient_clipping": 3.0}, "--max_grad_norm is 1.0"),
        ({"zero_optimization": {"stage": 4}}, "choose 0, 1, 2 or 3"),
        ({"optimizer": {"params": {"lr": 1e-3}}}, "optimizer.params.lr"),
        ({"scheduler": {"params": {"warmup_num_steps": 10}}}, "scheduler.params.warmup_num_steps"),
        ([1], "JSON object"),
    ],
)
def test_what_contradicts_the_spec_is_refused(tmp_path: Path, config: object, says: str) -> None:
    with pytest.raises(FineryError) as caught:
        zero.read(spec_with(file_with(tmp_path, config)))
    assert caught.value.reason is Reason.INVALID_ARGUMENT
    assert caught.value.metadata["field"] == "deepspeed"
    assert says in caught.value.message


def test_a_file_that_is_not_there_or_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(FineryError) as caught:
        zero.read(spec_with(str(tmp_path / "none.json")))
    assert caught.value.reason is Reason.FILE_MISSING
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(FineryError, match="not JSON"):
        zero.read(spec_with(str(broken)))


def test_a_file_whose_precision_is_not_the_models_is_refused(tmp_path: Path) -> None:
    config = zero.read(spec_with(file_with(tmp_path, {"fp16": {"enabled": True}})))
    with pytest.raises(FineryError, match="--dtype is bf16"):
        zero.complete(config, dtype="bf16", hidden_size=8, full=False)
