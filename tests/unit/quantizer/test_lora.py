import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from finery_quantizer.backends.checkpoint.shards import INDEX, read_tensors, tensor_shapes, weight_files
from finery_quantizer.backends.lora.adapter import check_fits, read_adapter
from finery_quantizer.backends.lora.fold import fold
from finery_shared.errors import FineryError, Reason
from finery_shared.models.registry import all_specs
from tests.unit.quantizer.models import write_adapter, write_model


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in weight_files(directory) for name, tensor in read_tensors(file)}


def merge(base: Path, adapter: Path, destination: Path) -> dict[str, torch.Tensor]:
    assert list(fold(base, read_adapter(adapter), destination))[-1][0] == len(weight_files(base))
    return tensors(destination)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 8},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 32}},
        {"target_modules": ["q_proj", "v_proj"]},
    ],
)
def test_merged_weights_are_pefts_within_one_rounding(
    tmp_path: Path, dtype: torch.dtype, options: dict[str, object]
) -> None:
    check_merge(tmp_path, write_model(tmp_path / "base", dtype=dtype), dtype, options)


@pytest.mark.parametrize("architecture", sorted({spec.architecture for spec in all_specs()}))
@pytest.mark.parametrize("options", [{}, {"bias": "lora_only"}, {"bias": "all"}])
def test_every_registered_family_merges_so(tmp_path: Path, architecture: str, options: dict[str, object]) -> None:
    base = write_model(tmp_path / "base", architecture=architecture, shard="60KB")
    check_merge(tmp_path, base, torch.bfloat16, options)


def check_merge(tmp_path: Path, base: Path, dtype: torch.dtype, options: dict[str, object]) -> None:
    adapter = write_adapter(tmp_path / "adapter", base, **options)
    ours = merge(base, adapter, tmp_path / "merged")
    exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32), adapter)
    theirs = exact.merge_and_unload().state_dict()
    changed = 0
    for name, tensor in tensors(base).items():
        assert ours[name].dtype == dtype
        rounding = torch.finfo(dtype).eps * theirs[name].abs() + 1e-7
        assert ((ours[name].float() - theirs[name]).abs() <= rounding).all(), name
        changed += not torch.equal(ours[name], tensor)
    assert changed == len(read_adapter(adapter).changed)


def test_shards_index_and_small_files_stay_those_of_the_base(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", shard="40KB")
    assert len(weight_files(base)) > 2
    merged = tmp_path / "merged"
    merge(base, write_adapter(tmp_path / "adapter", base), merged)
    assert {file.name for file in merged.iterdir()} == {file.name for file in base.iterdir()}
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", INDEX):
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    assert "lm_head.weight" not in tensors(merged)  # tied to the embeddings, and still so


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "lm_head"]}, False),
        ({"modules_to_save": ["lm_head"]}, False),
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, True),
        ({"modules_to_save": ["norm"]}, True),
    ],
)
@pytest.mark.parametrize("shard", ["5GB", "40KB"])
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`", "ignore:Setting `save_embedding_layers`")
def test_tied_embeddings_are_untied_only_if_the_adapter_touched_them(
    tmp_path: Path, options: dict[str, object], tied: bool, shard: str
) -> None:
    base = write_model(tmp_path / "base", dtype=torch.float32, shard=shard)
    adapter = write_adapter(tmp_path / "adapter", base, **options)
    merged = tmp_path / "merged"
    ours = merge(base, adapter, merged)
    assert json.loads((merged / "config.json").read_text())["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in ours) is not tied
    ids = torch.arange(200, 260).unsqueeze(0)
    exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)(ids).logits
    found, loading = AutoModelForCausalLM.from_pretrained(merged, output_loading_info=True)
    assert not any(loading.values())
    torch.testing.assert_close(found(ids).logits, exact, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(exact, AutoModelForCausalLM.from_pretrained(base)(ids).logits, rtol=1e-2, atol=1e-2)


PEAK = """
import sys, threading
from pathlib import Path
from finery_quantizer.backends.lora.adapter import read_adapter
from finery_quantizer.backends.lora.fold import fold

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) // 1024

def watch():
    while not done.wait(0.005):
        peaks.append(own())

done, peaks = threading.Event(), [own()]
threading.Thread(target=watch).start()
base, adapter, destination = map(Path, sys.argv[1:])
list(fold(base, read_adapter(adapter), destination))
done.set()
print(max(peaks) - peaks[0])
"""


def test_memory_holds_a_few_tensors_never_the_model(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    tensors = {f"model.layers.{n}.mlp.up_proj.weight": torch.ones(4096, 4096).bfloat16() for n in range(16)}
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    for part in range(4):
        save_file({n: tensors[n] for n in names[part::4]}, base / f"model-{part}.safetensors")
    weight_map = {name: f"model-{i % 4}.safetensors" for i, name in enumerate(names)}
    (base / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    sides = {"A": torch.ones(2, 4096), "B": torch.ones(4096, 2)}
    modules = [f"base_model.model.{name.removesuffix('.weight')}" for name in names]
    factors = {f"{module}.lora_{side}.weight": t.clone() for module in modules for side, t in sides.items()}
    save_file(factors, adapter / "adapter_model.safetensors")
    command = [sys.executable, "-c", PEAK, base, adapter, tmp_path / "merged"]
    mebibytes = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert mebibytes < 320  # of 512 that the model takes; a tensor is 32
    merged = {n: t for file in weight_files(tmp_path / "merged") for n, t in read_tensors(file)}
    assert merged.keys() == weight_map.keys()
    assert all((tensor == 5).all() for tensor in merged.values())


def test_an_adapter_of_another_base_is_refused_with_names_and_shapes(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = read_adapter(write_adapter(tmp_path / "adapter", base))
    shapes = tensor_shapes(base)
    shapes["model.layers.0.mlp.up_proj.weight"] = (256, 64)
    del shapes["model.layers.1.self_attn.q_proj.weight"]
    with pytest.raises(FineryError) as caught:
        check_fits(adapter, shapes, base)
    assert caught.value.reason is Reason.MODEL_INVALID
    assert "model.layers.0.mlp.up_proj.weight: the adapter's is [128, 64], the model's [256, 64]" in str(caught.value)
    assert "model.layers.1.self_attn.q_proj.weight: the adapter's is [64, 64], the model's missing" in str(caught.value)


def test_a_zeroed_adapter_fails_the_gate(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", base)
    file = adapter / "adapter_model.safetensors"
    save_file({k: torch.zeros_like(v) if "lora_B" in k else v for k, v in load_file(file).items()}, file)
    with pytest.raises(FineryError, match="all zeros") as caught:
        read_adapter(adapter)
    assert caught.value.reason is Reason.GATE_FAILED


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
    ],
)
def test_what_plain_lora_does_not_have_is_unsupported_by_name(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_model(tmp_path / "base"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(FineryError, match=named) as caught:
        read_adapter(adapter)
    assert caught.value.reason is Reason.UNSUPPORTED


def test_a_dora_adapter_without_its_magnitudes_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_model(tmp_path / "base"))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(FineryError, match="lacks parts"):
        read_adapter(adapter)


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "adapter", write_model(tmp_path / "base"))
    file = adapter / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "q_proj.lora_B" not in k}, file)
    with pytest.raises(FineryError, match=r"lacks parts, or has too many, for model\.layers\.0\.self_attn\.q_proj"):
        read_adapter(adapter)
