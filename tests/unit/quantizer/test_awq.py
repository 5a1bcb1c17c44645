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
from transformers import MixtralConfig, MixtralForCausalLM

from finery_quantizer.backends.awq import memory, writer
from finery_quantizer.backends.awq.backend import AwqBackend
from finery_quantizer.backends.awq.mapping import load_mapping
from finery_quantizer.backends.awq.memory import device_bytes
from finery_quantizer.backends.awq.options import AwqOptions
from finery_quantizer.backends.awq.packing import unpack
from finery_quantizer.backends.awq.quantizer import AwqQuantizer
from finery_quantizer.backends.awq.readback import PackedLinear, WrittenTensors, load_packed
from finery_quantizer.backends.awq.rounding import round_trip
from finery_quantizer.backends.base import WrittenModel
from finery_quantizer.backends.checkpoint.shards import INDEX, weight_files
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.errors import FineryError, Reason
from tests.unit.quantizer.models import whole_model, write_model

CPU = torch.device("cpu")
GROUP = 32
BLOCKS = torch.randint(0, 512, (4, 64), generator=torch.Generator().manual_seed(3))
HELD_OUT = torch.randint(0, 512, (2, 96), generator=torch.Generator().manual_seed(4))


def error(model: nn.Module, right: torch.Tensor) -> float:
    return float((model(HELD_OUT).logits - right).square().mean() / right.square().mean())


def quantized(source: Path, options: AwqOptions) -> tuple[nn.Module, torch.Tensor, nn.Module]:
    """The model with AWQ's weights, the logits of the original, and the model with plainly rounded weights."""
    model = whole_model(source, torch.float32)
    right = model(HELD_OUT).logits.clone()
    rounded = copy.deepcopy(model)
    for module in rounded.model.layers.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = round_trip(module.weight, options.group_size, options.storage)
    state = model.state_dict()
    for layer in AwqQuantizer(options).layers(StreamedModel(source, CPU, torch.float32), BLOCKS):
        for name, packed in layer.packed.items():
            state[f"{name}.weight"].copy_(unpack(packed))
        for name, tensor in layer.kept.items():
            state[name].copy_(tensor)
    return model, right, rounded


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "source", dtype=torch.float32)


def test_awq_is_closer_to_the_model_than_plain_rounding(source: Path) -> None:
    result, right, rounded = quantized(source, AwqOptions(GROUP, torch.float32, coarse_tokens=64))
    assert error(result, right) < 0.8 * error(rounded, right)


def test_the_weights_survive_the_search_on_a_cpu(source: Path) -> None:
    """AutoAWQ 0.2.9 keeps a backup that aliases the weights on a CPU and then scales them again for every ratio."""
    weights = load_file(source / "model.safetensors")
    layers = AwqQuantizer(AwqOptions(GROUP, torch.float32)).layers(StreamedModel(source, CPU, torch.float32), BLOCKS)
    first = next(layers)
    # Folding scales a linear's columns and divides the norm before it: their product is the weight that went in.
    norm = first.kept["model.layers.0.input_layernorm.weight"]
    ratio = weights["model.layers.0.input_layernorm.weight"] / norm
    query = unpack(first.packed["model.layers.0.self_attn.q_proj"]) / ratio
    original = weights["model.layers.0.self_attn.q_proj.weight"]
    assert (query - original).square().mean() < 0.02 * original.square().mean()
    for name, tensor in load_file(source / "model.safetensors").items():
        assert torch.equal(tensor, weights[name]), name


def test_tokens_may_pass_in_chunks(source: Path) -> None:
    at_once, in_chunks = (
        list(AwqQuantizer(options).layers(StreamedModel(source, CPU, torch.float32), BLOCKS))
        for options in (AwqOptions(GROUP, torch.float32, 64), AwqOptions(GROUP, torch.float32, 64, chunk_tokens=64))
    )
    for whole, parts in zip(at_once, in_chunks, strict=True):
        for name, norm in whole.kept.items():  # they carry the scales
            torch.testing.assert_close(parts.kept[name], norm)
        for name, packed in whole.packed.items():
            # Sums in another order may tip the choice between two codes of a weight, or two bounds of a group, that are
            # as good as each other: few weights move, and none by more than a code.
            off = (unpack(parts.packed[name]) - unpack(packed)).abs()
            assert (off > 1e-4).float().mean() < 0.05
            assert (off <= 1.01 * packed.scales.repeat_interleave(GROUP, 0).T).all()


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


def test_a_coarse_search_picks_what_the_full_one_picks(source: Path) -> None:
    coarse, full = (
        list(AwqQuantizer(options).layers(StreamedModel(source, CPU, torch.float32), BLOCKS))
        for options in (
            AwqOptions(GROUP, torch.float32, coarse_tokens=64, finalists=4),
            AwqOptions(GROUP, torch.float32, coarse_tokens=10**6),
        )
    )
    for one, other in zip(coarse, full, strict=True):
        for name, norm in one.kept.items():  # they carry the scales
            torch.testing.assert_close(norm, other.kept[name])


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, AwqBackend, WrittenModel]:
    source = write_model(tmp_path / "bf16")
    backend = AwqBackend(source, CPU, tmp_path / "state")
    told: list[tuple[int, int]] = []
    result = backend.quantize(source, tmp_path / "int4", BLOCKS.tolist(), lambda *done: told.append(done))
    assert told == [(0, 2), (1, 2), (2, 2)]
    return source, backend, result


def test_finished_layers_are_kept_and_used_again(tmp_path: Path) -> None:
    source = write_model(tmp_path / "bf16")

    def stop(done: int, _count: int) -> None:
        if done == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        AwqBackend(source, CPU, tmp_path / "state").quantize(source, tmp_path / "stopped", BLOCKS.tolist(), stop)
    (first,) = (tmp_path / "state").iterdir()
    made = first.stat().st_mtime_ns
    told: list[int] = []
    for state in ("state", "fresh"):
        backend = AwqBackend(source, CPU, tmp_path / state)
        backend.quantize(source, tmp_path / f"from-{state}", BLOCKS.tolist(), lambda done, _: told.append(done))
    assert told == [1, 2, 0, 1, 2]
    assert first.stat().st_mtime_ns == made
    resumed, fresh = (load_file(tmp_path / f"from-{name}" / "model.safetensors") for name in ("state", "fresh"))
    assert resumed.keys() == fresh.keys()
    assert all(torch.equal(resumed[name], fresh[name]) for name in fresh)


def test_layers_of_another_calibration_or_half_written_are_not_used(tmp_path: Path) -> None:
    source, state = write_model(tmp_path / "bf16"), tmp_path / "state"
    backend = AwqBackend(source, CPU, state)
    backend.quantize(source, tmp_path / "one", BLOCKS.tolist(), lambda *_: None)
    told: list[int] = []
    backend.quantize(source, tmp_path / "other", BLOCKS[:2].tolist(), lambda done, _: told.append(done))
    assert told == [0, 1, 2]
    file = sorted(state.iterdir())[1]
    file.write_bytes(file.read_bytes()[:-8])
    (state / "layer-00002.half").write_bytes(b"")
    told.clear()
    backend.quantize(source, tmp_path / "third", BLOCKS[:2].tolist(), lambda done, _: told.append(done))
    assert told == [1, 2]
    assert len(list(state.iterdir())) == 2


def test_what_cannot_fit_is_refused_with_an_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(tmp_path / "bf16")
    hidden, rest = device_bytes(StreamedModel(source, CPU, torch.float32), 4, 64, AwqOptions(GROUP))
    assert hidden == 4 * 64 * 64 * 4
    backend = AwqBackend(source, CPU, tmp_path / "state")
    monkeypatch.setattr(memory, "free_bytes", lambda _device: hidden + rest)
    backend.quantize(source, tmp_path / "fits", BLOCKS.tolist(), lambda *_: None)
    monkeypatch.setattr(memory, "free_bytes", lambda _device: hidden + rest - 1)
    with pytest.raises(FineryError, match=r"takes about 0\.0 GiB of memory.*256 calibration tokens") as caught:
        backend.quantize(source, tmp_path / "does-not", BLOCKS.tolist(), lambda *_: None)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert not (tmp_path / "does-not").exists()


def test_free_memory_is_what_the_machine_has() -> None:
    assert 2**24 < memory.free_bytes(CPU) < 2**50


def test_cached_files_do_not_count_against_a_groups_limit(tmp_path: Path) -> None:
    assert memory._left_to_group(tmp_path) == math.inf
    files = {"memory.current": "900", "memory.stat": "anon 300\nactive_file 200\ninactive_file 350\n"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for limit, left in (("max", math.inf), ("1000", 650)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert memory._left_to_group(tmp_path) == left


def test_a_large_model_keeps_a_file_a_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_model(tmp_path / "bf16")
    one, several = (AwqBackend(source, CPU, tmp_path / name) for name in ("one", "several"))
    one.quantize(source, tmp_path / "whole", BLOCKS.tolist(), lambda *_: None)
    monkeypatch.setattr(writer, "_SHARD_BYTES", 1)
    result = several.quantize(source, tmp_path / "split", BLOCKS.tolist(), lambda *_: None)
    names = [file.name for file in weight_files(result.directory)]
    assert names == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((result.directory / INDEX).read_text())
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    assert index["weight_map"].keys() == whole.keys()
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(result.directory / file)[name], whole[name])
    logits = [
        b.load(WrittenModel(tmp_path / d, result.fingerprints, result.quantized), torch.float32)(HELD_OUT).logits
        for b, d in ((one, "whole"), (several, "split"))
    ]
    assert torch.equal(*logits)


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
    right = whole_model(source, torch.float32)(HELD_OUT).logits
    assert 0 < error(backend.load(result, torch.float32), right) < 0.15  # what int4 does to random weights


def test_a_packed_model_computes_what_the_unpacked_one_does(written: tuple[Path, AwqBackend, WrittenModel]) -> None:
    _, backend, result = written
    packed = load_packed(result, CPU, torch.float32, home=CPU)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 2 * 7
    torch.testing.assert_close(packed(HELD_OUT).logits, backend.load(result, torch.float32)(HELD_OUT).logits)


@pytest.mark.parametrize("suffix", ["scales", "qweight", "qzeros"])
def test_a_corrupted_tensor_fails_the_gate_by_name(written: tuple[Path, AwqBackend, WrittenModel], suffix: str) -> None:
    _, backend, result = written
    file = weight_files(result.directory)[0]
    tensors = load_file(file)
    name = f"model.layers.1.mlp.up_proj.{suffix}"
    tensors[name][0, 0] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FineryError, match=rf"model\.layers\.1\.mlp\.up_proj\.{suffix}") as caught:
        backend.load(result, torch.float32)
    assert caught.value.reason is Reason.GATE_FAILED


def test_a_missing_tensor_fails_the_gate_by_name(written: tuple[Path, AwqBackend, WrittenModel]) -> None:
    _, _, result = written
    file = weight_files(result.directory)[0]
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.scales"]
    tensors["model.layers.1.mlp.other"] = torch.ones(1)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(FineryError, match=r"missing from its files: model\.layers\.1\.mlp\.up_proj\.scales"):
        WrittenTensors(result)
    unexpected = WrittenModel(result.directory, {name: "" for name in tensors if "other" not in name}, frozenset())
    with pytest.raises(FineryError, match=r"not expected in: model\.layers\.1\.mlp\.other"):
        WrittenTensors(unexpected)


def test_a_mixture_of_experts_is_unsupported(tmp_path: Path) -> None:
    config = MixtralConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path / "mixture")
    model = StreamedModel(tmp_path / "mixture", CPU, torch.float32)
    with pytest.raises(FineryError, match="mixture of experts") as caught:
        next(AwqQuantizer(AwqOptions(GROUP, torch.float32)).layers(model, BLOCKS))
    assert caught.value.reason is Reason.UNSUPPORTED


def test_an_unknown_architecture_is_unsupported() -> None:
    with pytest.raises(FineryError, match="does not know the architecture 'mamba'") as caught:
        load_mapping("mamba")
    assert caught.value.reason is Reason.UNSUPPORTED
