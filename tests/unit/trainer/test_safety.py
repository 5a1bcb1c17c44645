"""Runs that can't come to good end early, with what to change."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes import safety
from finery_trainer.recipes.rows import Row
from finery_trainer.recipes.safety import (
    DiskGuard,
    check_loss,
    checkpoint_bytes,
    dry_run,
    free_bytes,
    longest_rows,
    memory_errors,
)
from finery_trainer.spec import TrainingSpec
from tests.unit.trainer.runs import RecordingContext, run, tiny_model


def broken(error: Exception) -> Any:
    """A model that fails in its first forward pass."""

    def fail(*_: object) -> None:
        raise error

    model = tiny_model()
    model.register_forward_pre_hook(fail)
    return model


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_too_little_memory_is_found_before_the_first_step(tmp_path: Path, error: Exception) -> None:
    context = RecordingContext()
    with pytest.raises(FineryError) as caught:
        run(tmp_path, context, model=broken(error), max_steps=3)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert "--max_length (the longest row has 6 tokens)" in caught.value.message
    assert set(context.steps) <= {0}


def test_other_errors_stay_what_they_are() -> None:
    spec = TrainingSpec(datasets=("x",), output_dir="/out", gradient_accumulation_steps=1, sft_type="full")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(spec, 9):
        raise RuntimeError("shapes do not fit")
    with pytest.raises(FineryError, match="--sft_type lora"), memory_errors(spec, 9):
        raise torch.OutOfMemoryError("no")


def test_a_model_that_gives_no_numbers_is_found_before_the_first_step(tmp_path: Path) -> None:
    model, context = tiny_model(), RecordingContext()
    with torch.no_grad():
        model.get_input_embeddings().weight.fill_(torch.nan)
    with pytest.raises(FineryError, match="not a number before the first step") as caught:
        run(tmp_path, context, model=model, max_steps=3)
    assert caught.value.metadata["gate"] == "loss"
    assert set(context.steps) <= {0}


@pytest.mark.parametrize(
    ("figures", "before", "words"),
    [
        ({"loss": float("nan")}, [1.0], "training loss is not a number at step 7"),
        ({"eval_loss": float("inf")}, [1.0], "evaluation loss is not a number"),
        ({"loss": 1.0, "grad_norm": float("nan")}, [1.0], "gradient is not a number"),
        ({"loss": 0.0, "grad_norm": 0.0}, [], "zero"),
        ({"loss": 0.0}, [0.0, 0.0], "zero"),
    ],
)
def test_bad_losses(figures: dict[str, float], before: list[float], words: str) -> None:
    with pytest.raises(FineryError, match=words):
        check_loss(figures, before, "at step 7")


def test_good_losses() -> None:
    check_loss({"loss": 0.3, "grad_norm": 1.0}, [], "at step 7")
    check_loss({"loss": 0.0}, [0.4, 0.0], "at step 7")
    check_loss({"eval_loss": 0.0}, [], "at step 7")


class Maker:
    """Steps that draw random numbers and leave gradients; remembers what it was given."""

    tokens_seen = 5

    def __init__(self, model: nn.Linear) -> None:
        self.model = model
        self.computed: list[int] = []

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        rows = next(epoch_iterator)["rows"]
        self.tokens_seen += 100
        passes = [{"input_ids": torch.zeros(len(row.input_ids))} for row in rows]
        return [{"passes": passes}], torch.tensor(3)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        (one,) = inputs["passes"]
        self.computed.append(one["input_ids"].numel())
        loss = model(torch.rand(2)).sum()
        loss.backward()
        return loss.detach()

    def compute_loss(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return model(torch.rand(2)).sum()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_dry_run_leaves_everything_as_it_was(sharded: bool) -> None:
    model = nn.Linear(2, 1)
    maker = Maker(model)
    rows = [Row((1,) * n, (1,) * n) for n in (3, 9, 4)]
    before = torch.get_rng_state()
    assert dry_run(maker, model, rows, torch.device("cpu"), sharded=sharded) != 0.0
    assert torch.equal(torch.get_rng_state(), before)
    assert model.weight.grad is None
    assert maker.tokens_seen == 5
    assert maker.computed == ([] if sharded else [9])


def test_the_longest_rows_are_tried() -> None:
    rows = [Row((1,) * n, (1,) * n) for n in (3, 9, 4)]
    assert [len(row.input_ids) for row in longest_rows(rows, 2)] == [9, 4]


def test_the_first_pass_of_a_run_is_over_its_longest_rows(tmp_path: Path) -> None:
    model, sizes = tiny_model(), list[int]()
    model.register_forward_pre_hook(lambda _, __, given: sizes.append(given["input_ids"].numel()), with_kwargs=True)
    rows = [Row((k,) * (k + 2), (-100,) * k + (k, k)) for k in (5, 2, 9, 3, 7, 1, 4, 6)]
    run(tmp_path, RecordingContext(), model=model, rows=rows, evaluate=False, max_steps=1, batch_size=2)
    assert sizes[0] == (9 + 2) + (7 + 2)


def test_a_disk_that_fills_up_ends_a_run_before_half_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = RecordingContext()
    monkeypatch.setattr(safety, "free_bytes", lambda _path: 2**20 if 5 in context.steps else 2**40)
    with pytest.raises(FineryError, match="at step 6 there is 1 MiB of space left") as caught:
        run(tmp_path, context, max_steps=9, save_steps=3)
    assert caught.value.reason is Reason.DISK_FULL
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]


def test_room_is_asked_for_a_checkpoint_and_for_what_is_published_of_it(tmp_path: Path) -> None:
    model = tiny_model(rank=512)
    last = run(tmp_path, RecordingContext(), model=model, evaluate=False, max_steps=1).last.path
    saved = sum(path.stat().st_size for path in last.rglob("*"))
    published = (last / "adapter_model.safetensors").stat().st_size
    assert checkpoint_bytes(model) == pytest.approx(saved + published, rel=0.05)


def test_a_disk_without_room_ends_the_run_before_a_save(tmp_path: Path) -> None:
    free = SimpleNamespace(bytes=2**30)
    guard = DiskGuard(tmp_path / "new", 2**29, lambda _path: free.bytes)
    state, control = TrainerState(is_world_process_zero=True, global_step=50), TrainerControl()
    arguments = TrainingArguments(str(tmp_path))
    guard.on_train_begin(arguments, state, control)
    free.bytes = 2**28
    guard.on_step_end(arguments, state, control)
    control.should_save = True
    with pytest.raises(FineryError, match="about 576 MiB, and at step 50 there is 256 MiB of space left") as caught:
        guard.on_step_end(arguments, state, control)
    assert caught.value.reason is Reason.DISK_FULL
    assert free_bytes(tmp_path / "new" / "deep") > 0
