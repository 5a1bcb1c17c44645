"""What is trained, how it is published, and what the gates find in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finery_shared.artifacts import Kind
from finery_shared.errors import FineryError
from finery_shared.models import Recipe, ResolvedModel, from_path
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.rows import Row
from finery_trainer.recipes.training import TrainingResult, train
from finery_trainer.recipes.tuning import Tuning, tuning_of
from finery_trainer.spec import fill
from tests.unit.trainer.directories import write_small_files
from tests.unit.trainer.plain_peft import plain_logits
from tests.unit.trainer.runs import RecordingContext

ROWS = [Row((1, 2, k, 5, k + 1, 3), (-100, -100, -100, -100, k + 1, 3)) for k in range(6, 22)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama in bf16, its configuration as transformers 4 writes it."""
    directory = write_small_files(tmp_path_factory.mktemp("models") / "tiny", vocab_size=32, torch_dtype="bfloat16")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(directory)
    config.initializer_range = 0.2
    tensors = {k: v.to(torch.bfloat16) for k, v in LlamaForCausalLM(config).state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def plan(base: Path, **given: Any) -> TrainingPlan:
    values = {"datasets": ("x",), "output_dir": "/out", "logging_steps": 1, "max_steps": 3, "batch_size": 8, **given}
    model = ResolvedModel(base, from_path(base))
    spec = fill(values, Recipe())
    return TrainingPlan(spec, model, model.spec.targets.select(spec.lora_target_modules))


def tune(plan: TrainingPlan, output: Path, dtype: torch.dtype) -> tuple[Tuning, TrainingResult, RecordingContext]:
    tuning, context = tuning_of(plan), RecordingContext()
    torch.manual_seed(0)
    model = tuning.load(dtype, None, sharded=False)
    autocast = tuning.autocast(dtype, sharded=False)
    result = train(model, plan.spec, ROWS, [], output, context, autocast=autocast)  # type: ignore[arg-type]
    return tuning, result, context


def test_full_training_keeps_fp32_and_publishes_the_base_type(base: Path, tmp_path: Path) -> None:
    tuning, result, _ = tune(plan(base, sft_type="full", learning_rate=1e-3), tmp_path / "run", torch.bfloat16)
    saved = load_file(result.last.path / "model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    tuning.assemble(result.last.path, tmp_path / "out")
    tuning.check(tmp_path / "out")
    assert tuning.kind is Kind.MODEL
    assert (tmp_path / "out" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    published, original = (load_file(path / "model.safetensors") for path in (tmp_path / "out", base))
    assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}
    changed = [name for name in original if not torch.equal(published[name], original[name])]
    assert len(changed) >= len([name for name in original if "norm" not in name]) == 16
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(plain.lm_head.weight, published["lm_head.weight"].to(plain.dtype))


def test_small_updates_are_not_rounded_off(base: Path, tmp_path: Path) -> None:
    """At 1e-5 a step moves a weight of 0.2 by 5e-5 of itself; bf16 has steps of 4e-3."""
    _, result, _ = tune(plan(base, sft_type="full", warmup_ratio=0.0), tmp_path, torch.bfloat16)
    saved, original = load_file(result.last.path / "model.safetensors"), load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    difference = (saved[name] - original[name].float()).abs().mean()
    assert 5e-6 < difference < 5e-5


def test_a_model_in_which_nothing_moved_or_something_is_missing_fails(base: Path, tmp_path: Path) -> None:
    tuning = tuning_of(plan(base, sft_type="full"))
    for name, change in (("same", None), ("missing", "model.norm.weight"), ("broken", "lm_head.weight")):
        tuning.assemble(base, tmp_path / name)
        tensors = load_file(tmp_path / name / "model.safetensors")
        if name == "missing" and change:
            del tensors[change]
        elif change:
            tensors[change][0, 0] = torch.nan
        save_file(tensors, tmp_path / name / "model.safetensors")
        words = {"same": "no weight has changed", "missing": "model.norm.weight", "broken": "not finite"}[name]
        with pytest.raises(FineryError, match=words) as caught:
            tuning.check(tmp_path / name)
        assert caught.value.metadata["gate"] == "model"


def test_full_training_takes_a_low_rate_whatever_the_recipe_says(base: Path) -> None:
    assert plan(base, sft_type="full").spec.learning_rate == 1e-5
    recipe = Recipe(learning_rate=2e-3, batch_size=8)
    given = {"datasets": ("x",), "output_dir": "/out", "sft_type": "full"}
    assert (fill(given, recipe).learning_rate, fill(given, recipe).batch_size) == (1e-5, 8)
    assert fill({**given, "learning_rate": 1e-4}, recipe).learning_rate == 1e-4


def test_an_adapter_is_configured_as_it_was_asked_for(base: Path, tmp_path: Path) -> None:
    asked = plan(base, lora_rank=3, lora_alpha=5.0, lora_dropout=0.3, lora_target_modules=("ALL",), max_steps=1)
    _, result, _ = tune(asked, tmp_path, torch.float32)
    config = json.loads((result.last.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 5.0, 0.3)
    projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert set(config["target_modules"]) == projections


def test_adapters_mean_the_same_to_plain_peft(base: Path, tmp_path: Path) -> None:
    ids, trained = [1, 2, 7, 5], {}
    for name in ("lora", "use_rslora", "use_dora"):
        asked = plan(base, lora_rank=4, learning_rate=0.1, **({} if name == "lora" else {name: True}))
        tuning = tuning_of(asked)
        model = tuning.load(torch.float32, None, sharded=False)
        result = train(model, asked.spec, ROWS, [], tmp_path / name, RecordingContext())  # type: ignore[arg-type]
        tuning.assemble(result.last.path, tmp_path / f"{name}-out")
        with torch.inference_mode():
            trained[tmp_path / f"{name}-out"] = model.eval()(torch.tensor([ids])).logits
    untuned, *tuned = plain_logits(tmp_path, ids, base, *trained)
    for expected, logits in zip(trained.values(), tuned, strict=True):
        assert torch.allclose(logits, expected, atol=1e-5)
        assert not torch.allclose(logits, untuned, atol=1e-2)


@pytest.mark.parametrize("options", [{"use_rslora": True}, {"use_dora": True}])
def test_kinds_of_adapters(base: Path, tmp_path: Path, options: dict[str, bool]) -> None:
    """rsLoRA scales by alpha / sqrt(r): 32 / 2 rather than 32 / 4. DoRA has a vector for each layer."""
    tuning, result, context = tune(plan(base, lora_rank=4, **options), tmp_path / "run", torch.float32)
    _, _, plain = tune(plan(base, lora_rank=4), tmp_path / "plain", torch.float32)
    assert context.losses()[0] == pytest.approx(plain.losses()[0], rel=1e-5)
    assert context.losses()[2] != plain.losses()[2]
    tuning.assemble(result.last.path, tmp_path / "out")
    tuning.check(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {name: config[name] for name in options} == options
    layer = tuning.reload(tmp_path / "out", torch.float32, None).base_model.model.model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == (16.0 if "use_rslora" in options else 8.0)
    names = load_file(tmp_path / "out" / "adapter_model.safetensors").keys()
    assert sum("magnitude" in name for name in names) == (6 if "use_dora" in options else 0)
    if "use_dora" in options:
        kept = {
            k: v for k, v in load_file(tmp_path / "out" / "adapter_model.safetensors").items() if "magnitude" not in k
        }
        save_file(kept, tmp_path / "out" / "adapter_model.safetensors")
        with pytest.raises(FineryError, match="0 lora_magnitude_vector"):
            tuning.check(tmp_path / "out")


def test_the_base_model_can_be_asked_beside_the_tuned_one(base: Path, tmp_path: Path) -> None:
    original = load_file(base / "model.safetensors")
    for kind in ("full", "lora"):
        tuning, result, _ = tune(plan(base, sft_type=kind, learning_rate=0.1), tmp_path / kind, torch.float32)
        tuning.assemble(result.last.path, tmp_path / f"{kind}-out")
        tuned = tuning.reload(tmp_path / f"{kind}-out", torch.float32, None)
        ids = torch.tensor([[1, 2, 7, 5]])
        expected = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)(ids).logits
        with torch.inference_mode(), tuning.base(tuned, torch.float32, None) as model:
            assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        assert not torch.allclose(tuned(ids).logits, expected, atol=1e-2)
    assert original["lm_head.weight"].dtype == torch.bfloat16
