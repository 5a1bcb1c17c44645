"""AWQ over a whole tiny model: what goes in survives, what comes out is what was meant."""

import copy
import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from finery_quantizer.backends.awq.backend import AwqBackend
from finery_quantizer.backends.awq.packing import unpack
from finery_quantizer.backends.awq.quantizer import AwqOptions, AwqQuantizer
from finery_quantizer.backends.awq.readback import read_quantized, verified
from finery_quantizer.backends.awq.rounding import round_trip
from finery_quantizer.backends.base import WrittenModel
from finery_quantizer.backends.checkpoint.model import load_model
from finery_quantizer.backends.checkpoint.shards import weight_files
from finery_shared.errors import FineryError, Reason
from tests.unit.quantizer.models import tiny_llama, write_model

GROUP = 32
BLOCKS = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(3))
HELD_OUT = torch.randint(0, 512, (2, 96), generator=torch.Generator().manual_seed(4))


def error(model: nn.Module, right: torch.Tensor) -> float:
    return float((model(HELD_OUT).logits - right).square().mean() / right.square().mean())


def quantized(options: AwqOptions) -> tuple[nn.Module, torch.Tensor, nn.Module]:
    """The model with AWQ's weights, the logits of the original, and the model with plainly rounded weights."""
    model = tiny_llama(heavy_tails=True)
    right = model(HELD_OUT).logits.clone()
    rounded, result = copy.deepcopy(model), copy.deepcopy(model)
    for module in rounded.model.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = round_trip(module.weight, options.group_size, options.storage)
    state = result.state_dict()
    for layer in AwqQuantizer(options).layers(model, "llama", BLOCKS):
        for name, packed in layer.packed.items():
            state[f"{name}.weight"].copy_(unpack(packed))
        for name, tensor in layer.kept.items():
            state[name].copy_(tensor)
    return result, right, rounded


def test_awq_is_closer_to_the_model_than_plain_rounding() -> None:
    result, right, rounded = quantized(AwqOptions(GROUP, torch.float32, coarse_tokens=64))
    assert error(result, right) < 0.8 * error(rounded, right)


def test_the_weights_survive_the_search_on_a_cpu() -> None:
    """AutoAWQ 0.2.9 keeps a backup that aliases the weights on a CPU and then scales them again for every ratio."""
    model = tiny_llama(heavy_tails=True)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = AwqQuantizer(AwqOptions(GROUP, torch.float32)).layers(model, "llama", BLOCKS)
    first = next(layers)
    # Folding scales a linear's columns and divides the norm before it: their product is the weight that went in.
    norm = first.kept["model.layers.0.input_layernorm.weight"]
    ratio = weights["model.layers.0.input_layernorm.weight"] / norm
    query = unpack(first.packed["model.layers.0.self_attn.q_proj"]) / ratio
    original = weights["model.layers.0.self_attn.q_proj.weight"]
    assert (query - original).square().mean() < 0.02 * original.square().mean()
    for name, tensor in model.state_dict().items():
        if not name.startswith("model.layers.0."):
            assert torch.equal(tensor, weights[name]), name


def test_stock_autoawq_still_corrupts_them() -> None:
    """The reason for a search of our own; when this fails, AutoAWQ was repaired."""
    with warnings.catch_warnings(record=True):
        from awq.quantize.quantizer import AwqQuantizer as Stock
    layer = nn.Linear(64, 32, bias=False).requires_grad_(False)
    before = layer.weight.clone()
    stock = Stock.__new__(Stock)
    stock.group_size, stock.zero_point, stock.w_bit, stock.duo_scaling = GROUP, True, 4, True
    stock.max_chunk_memory, stock.n_parallel_calib_samples = 2**30, None
    inputs = torch.randn(1, 50, 64)
    stock._compute_best_scale(
        inputs, layer.weight.abs().mean(0), inputs.abs().mean((0, 1)), layer, [layer], layer(inputs)
    )
    assert not torch.allclose(layer.weight, before, rtol=0.1)


def test_a_coarse_search_ends_as_well_as_the_full_one() -> None:
    coarse, right, _ = quantized(AwqOptions(GROUP, torch.float32, coarse_tokens=64, finalists=4))
    full, _, _ = quantized(AwqOptions(GROUP, torch.float32, coarse_tokens=10**6))
    assert math.isclose(error(coarse, right), error(full, right), rel_tol=0.1)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, AwqBackend, WrittenModel]:
    source = write_model(tmp_path / "source")
    backend = AwqBackend(source, torch.device("cpu"))
    told: list[tuple[int, int]] = []
    result = backend.quantize(source, tmp_path / "int4", BLOCKS.tolist(), lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
    return source, backend, result


def test_the_directory_is_autoawqs_format(written: tuple[Path, AwqBackend, WrittenModel]) -> None:
    source, _, result = written
    config = json.loads((result.directory / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "awq",
        "zero_point": True,
        "group_size": 64,
        "bits": 4,
        "version": "gemm",
        "modules_to_not_convert": None,
    }
    assert {**config, "quantization_config": None} == {
        **json.loads((source / "config.json").read_text()),
        "quantization_config": None,
    }
    tensors = load_file(result.directory / "model.safetensors")
    assert tensors["model.layers.0.mlp.down_proj.qweight"].shape == (128, 8)
    assert tensors["model.layers.0.mlp.down_proj.qweight"].dtype == torch.int32
    assert tensors["model.layers.0.mlp.down_proj.qzeros"].shape == (2, 8)
    assert tensors["model.layers.0.mlp.down_proj.scales"].shape == (2, 64)
    assert tensors["model.layers.0.mlp.down_proj.scales"].dtype == torch.bfloat16
    assert "model.layers.0.mlp.down_proj.weight" not in tensors
    original = load_file(source / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(tensors["model.embed_tokens.weight"], original)
    for name in ("tokenizer.json", "generation_config.json"):
        assert (result.directory / name).read_bytes() == (source / name).read_bytes()


def test_what_is_read_back_is_the_model(written: tuple[Path, AwqBackend, WrittenModel]) -> None:
    source, backend, result = written
    model = load_model(source).float()
    right = model(HELD_OUT).logits.clone()
    state = model.state_dict()
    for name, tensor in backend.read_back(result):
        state[name].copy_(tensor)
    assert 0 < error(model, right) < 0.15  # what int4 does to random weights


@pytest.mark.parametrize("suffix", ["scales", "qweight", "qzeros"])
def test_a_corrupted_tensor_fails_the_gate_by_name(written: tuple[Path, AwqBackend, WrittenModel], suffix: str) -> None:
    _, _, result = written
    file = weight_files(result.directory)[0]
    tensors = load_file(file)
    name = f"model.layers.1.mlp.up_proj.{suffix}"
    tensors[name][0, 0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FineryError, match=r"model\.layers\.1\.mlp\.up_proj\.weight") as caught:
        list(verified(result.directory, result.fingerprints))
    assert caught.value.reason is Reason.GATE_FAILED


def test_a_missing_tensor_fails_the_gate_by_name(written: tuple[Path, AwqBackend, WrittenModel]) -> None:
    _, _, result = written
    file = weight_files(result.directory)[0]
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.scales"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FineryError, match="up_proj lacks scales"):
        list(read_quantized(result.directory))
    del tensors["model.norm.weight"], tensors["model.layers.1.mlp.up_proj.qweight"]
    del tensors["model.layers.1.mlp.up_proj.qzeros"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(
        FineryError, match=r"missing from its files: model\.layers\.1\.mlp\.up_proj\.weight, model\.norm"
    ):
        list(verified(result.directory, result.fingerprints))


def test_an_unknown_architecture_is_unsupported() -> None:
    with pytest.raises(FineryError, match="does not know the architecture 'mamba'") as caught:
        next(AwqQuantizer(AwqOptions(GROUP, torch.float32)).layers(nn.Module(), "mamba", BLOCKS))
    assert caught.value.reason is Reason.UNSUPPORTED
