"""Whole runs over fused layers and recorded passes. Skipped where there is no GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainingArguments

from finery_trainer.recipes.attention import register
from finery_trainer.recipes.collator import IGNORED, cut, learned
from finery_trainer.recipes.fused.fuse import fuse
from finery_trainer.recipes.packed_trainer import PackedTrainer
from tests.unit.trainer.fused_models import some_rows
from tests.unit.trainer.runs import RecordingContext, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def a_model() -> Any:
    """A model that can be fused, with a fresh adapter, as transformers and PEFT compute it."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
    )
    base = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    return model.cuda()


def a_run(output: Path, context: RecordingContext) -> list[float]:
    """Losses of 12 steps over the same 16 rows each; the model is fused, its passes are recorded."""
    model = a_model()
    model.set_attn_implementation(register())
    run(output, context, model=model, batch_size=16, max_steps=12, save_steps=4, eval_steps=4)
    assert not [line for line in context.lines if "computed by its own layers" in line]
    return context.losses()


def test_a_run_learns_and_one_that_was_cut_goes_on(tmp_path: Path) -> None:
    whole, cut, rest = RecordingContext(), RecordingContext(cancel_at=6), RecordingContext()
    losses = a_run(tmp_path / "whole", whole)
    assert len(losses) == 12
    assert losses[-1] < losses[0] / 2
    assert a_run(tmp_path / "cut", cut) == pytest.approx(losses[:6], rel=0.02)
    assert a_run(tmp_path / "cut", rest) == pytest.approx(losses[6:], rel=0.02)
    assert rest.steps[0] == 6


def test_every_row_of_a_replayed_pass_has_the_loss_that_plain_peft_gives_it(tmp_path: Path) -> None:
    """The pass is recorded once and replayed for every row, the labels of the others left out."""
    model, rows = a_model(), cut(some_rows(12), 10**6)[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
        each = [{"input_ids": torch.tensor([row.input_ids]), "labels": torch.tensor([row.labels])} for row in rows]
        expected = [model(**{name: ids.cuda() for name, ids in one.items()}).loss.item() for one in each]
    model.set_attn_implementation(register())
    arguments = TrainingArguments(str(tmp_path), report_to=[])
    trainer = PackedTrainer(model=model, args=arguments, fused=fuse(model), train_dataset=rows)
    batches, count = trainer.get_batch_samples(iter([{"rows": tuple(rows)}]), 1, arguments.device)
    (whole,) = batches[-1]["passes"]
    found, end = [trainer.training_step(model, {"passes": (whole,)}, count).item()], 0
    for row in rows:
        begin, end = end, end + learned([row])
        labels = torch.full_like(whole["labels"], IGNORED)
        labels[:, begin:end] = whole["labels"][:, begin:end]
        alone = {**whole, "labels": labels, "shift_labels": labels}
        found.append(trainer.training_step(model, {"passes": (alone,)}, end - begin).item())
    assert trainer.recording_seconds > 0
    assert found[1:] == pytest.approx(expected, rel=0.02)
    total = sum(loss * learned([row]) for loss, row in zip(expected, rows, strict=True))
    assert found[0] == pytest.approx(total / count, rel=0.02)
    assert max(expected) > 1.2 * min(expected)
