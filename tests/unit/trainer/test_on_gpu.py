"""Whole runs over fused layers and recorded passes. Skipped where there is no GPU."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

from finery_trainer.recipes.attention import register
from tests.unit.trainer.runs import RecordingContext, run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def a_run(output: Path, context: RecordingContext) -> list[float]:
    """Losses of 12 steps over the same 16 rows each; the model is fused, its passes are recorded."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=register(),
        initializer_range=0.2,
    )
    base = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear"))
    run(output, context, model=model.cuda(), batch_size=16, max_steps=12, save_steps=4, eval_steps=4)
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
