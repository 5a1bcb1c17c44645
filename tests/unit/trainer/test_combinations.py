from pathlib import Path
from typing import Any

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import Recipe
from finery_trainer.combinations import Machine, check_combination, look_around
from finery_trainer.spec import TrainingSpec, fill

CPU, GPU, GPUS = Machine(0, 2), Machine(1, 8), Machine(4, 8)


def spec_of(**given: Any) -> TrainingSpec:
    return fill({"datasets": ("x",), "output_dir": "/out", **given}, Recipe())


@pytest.mark.parametrize(
    ("given", "machine"),
    [
        ({}, CPU),
        ({"nproc_per_node": 2}, CPU),
        ({"nproc_per_node": 2, "deepspeed": "default-zero3"}, CPU),
        ({"nproc_per_node": 4, "deepspeed": "default-zero2", "cuda_visible_devices": "0,1,2,3"}, GPUS),
        ({"deepspeed": "default-zero2"}, GPU),
        ({"deepspeed": "default-zero3", "sft_type": "full"}, GPU),
        ({"use_dora": True, "deepspeed": "default-zero3"}, GPU),
        ({"base_precision": "fp8", "nproc_per_node": 4}, GPUS),
        ({"cuda_visible_devices": "0,1,2,3"}, GPUS),
    ],
)
def test_what_works_together_is_let_through(given: dict[str, Any], machine: Machine) -> None:
    check_combination(spec_of(**given), machine)


@pytest.mark.parametrize(
    ("given", "machine", "field", "reason"),
    [
        ({"nproc_per_node": 3}, CPU, "nproc_per_node", "only wait for each other"),
        ({"nproc_per_node": 5}, GPUS, "nproc_per_node", "need a GPU each"),
        ({"deepspeed": "default-zero3", "cuda_visible_devices": "0,1"}, GPUS, "deepspeed", "--nproc_per_node 4"),
        ({"deepspeed": "default-zero2", "dtype": "fp16"}, CPU, "dtype", "no fp16"),
        ({"base_precision": "fp8"}, CPU, "base_precision", "need a GPU"),
        ({"base_precision": "fp8", "sft_type": "full"}, GPU, "base_precision", "freezes nothing"),
        ({"base_precision": "fp8", "deepspeed": "default-zero2"}, GPU, "base_precision", "DeepSpeed"),
        ({"base_precision": "fp8", "use_dora": True}, GPU, "base_precision", "DoRA"),
        ({"sft_type": "full", "use_dora": True}, GPU, "use_dora", "kind of adapter"),
        ({"sft_type": "full", "use_rslora": True}, GPU, "use_rslora", "kind of adapter"),
    ],
)
def test_what_can_not_work_together_is_refused_with_the_reason(
    given: dict[str, Any], machine: Machine, field: str, reason: str
) -> None:
    with pytest.raises(FineryError) as caught:
        check_combination(spec_of(**given), machine)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert caught.value.metadata["field"] == field
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("chosen", "environment", "gpus"),
    [(None, {}, 2), ("1", {}, 1), ("", {}, 0), (None, {"CUDA_VISIBLE_DEVICES": "0"}, 1), ("0,1,2", {}, 2)],
)
def test_a_job_sees_the_gpus_that_are_there_and_named(
    tmp_path: Path, chosen: str | None, environment: dict[str, str], gpus: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert look_around(spec_of(cuda_visible_devices=chosen), environment, tmp_path).gpus == gpus
    assert look_around(spec_of(), {}, tmp_path / "none").gpus == 0
