"""A step's rows give one gradient, however they are cut into passes; shapes and limits of passes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import PrinterCallback, Trainer, TrainingArguments

from finery_trainer.recipes.collator import cut, learned, pack
from finery_trainer.recipes.fused.fuse import fuse
from finery_trainer.recipes.packed_trainer import PackedTrainer
from finery_trainer.recipes.passes import PassLimit, limit_within, pass_limit, shape_for
from tests.unit.trainer.fused_models import some_rows, tiny


def losses(
    directory: Path,
    *,
    batch: int,
    accumulation: int = 1,
    packed: bool = True,
    fused: bool = False,
    max_tokens: int | None = None,
    dropout: float = 0.0,
) -> list[float]:
    """Training and evaluation losses of four steps."""
    model = tiny("qwen2", lora_dropout=dropout)
    arguments = TrainingArguments(
        str(directory),
        max_steps=4,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        learning_rate=1e-2,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=4,
        per_device_eval_batch_size=4,
        use_cpu=True,
        report_to=[],
        remove_unused_columns=False,
        prediction_loss_only=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    rows = some_rows(20)
    options: dict[str, Any] = {"model": model, "args": arguments, "train_dataset": rows[:16], "eval_dataset": rows[16:]}
    if packed:
        options |= {"fused": fuse(model) if fused else None, "max_tokens": max_tokens}
    trainer = PackedTrainer(**options) if packed else Trainer(**options, data_collator=pack)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return [entry[key] for entry in trainer.state.log_history for key in ("loss", "eval_loss") if key in entry]


def test_cutting_and_fusing_change_nothing(tmp_path: Path) -> None:
    expected = losses(tmp_path, batch=8, packed=False)
    assert len(expected) == 5
    assert losses(tmp_path, batch=2, accumulation=4, max_tokens=40) == pytest.approx(expected, rel=1e-4)
    assert losses(tmp_path, batch=8, fused=True, max_tokens=60) == pytest.approx(expected, rel=1e-4)


def test_dropout_repeats_itself(tmp_path: Path) -> None:
    first, second = (losses(tmp_path, batch=8, fused=True, dropout=0.2) for _ in range(2))
    assert first == second
    assert first != pytest.approx(losses(tmp_path, batch=8, fused=True), rel=1e-4)


def test_rows_are_cut_evenly_and_none_is_lost() -> None:
    rows = some_rows(40)
    groups = cut(rows, 100)
    sizes = [sum(len(row.input_ids) for row in group) for group in groups]
    assert sorted(map(id, (row for group in groups for row in group))) == sorted(map(id, rows))
    assert max(sizes) <= 100
    assert min(sizes) > 0.75 * max(sizes)
    assert [len(group) for group in cut(rows, 1)] == [1] * 40


def test_the_first_token_of_a_row_is_never_learned() -> None:
    row = SimpleNamespace(input_ids=(5, 6, 7), labels=(5, 6, 7))
    assert learned([row]) == 2  # type: ignore[list-item]


def test_recorded_passes_have_few_shapes() -> None:
    rows = some_rows(30)
    shape = shape_for(rows, longest=300, recorded=True)
    total = sum(len(row.input_ids) for row in rows)
    assert total <= shape.tokens < total + 128
    assert shape.tokens % 64 == 0
    assert shape.predictions is not None and learned(rows) <= shape.predictions <= shape.tokens
    assert (shape.boundaries, shape.longest) == (32, 384)
    assert shape_for(rows, longest=300, recorded=False).predictions is None


GIB = 2**30


@pytest.mark.parametrize(
    ("free", "longest", "expected"),
    [
        (64 * GIB, 512, PassLimit(8192)),
        (24 * GIB, 512, PassLimit(5568)),
        (6 * GIB, 4096, PassLimit(7424, checkpointing=True)),
        (64 * GIB, 10_000, PassLimit(10_000)),
    ],
    ids=["large", "small", "twice", "long row"],
)
def test_passes_fit_the_memory(free: int, longest: int, expected: PassLimit) -> None:
    fused = SimpleNamespace(
        layers=(None,) * 32, bytes_a_token=3_500_000, bytes_checkpointed=262_144, head_bytes=1_250_000_000
    )
    limit = limit_within(free, fused, longest, 8192)  # type: ignore[arg-type]
    assert limit == expected
    assert limit.tokens * (fused.bytes_checkpointed if limit.checkpointing else fused.bytes_a_token) < free


def test_a_cpus_passes_are_its_own() -> None:
    assert pass_limit(torch.device("cpu"), None, 512) == PassLimit(2048)
    assert pass_limit(torch.device("cpu"), None, 512, 100) == PassLimit(100)
