from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.attention import register
from finery_trainer.recipes.collator import pack
from finery_trainer.recipes.loading import load_base
from finery_trainer.recipes.placement import device_map, free_memory, is_spread
from finery_trainer.recipes.rows import Row

LAYERS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def size_of(model: Path) -> int:
    return 4 * AutoModelForCausalLM.from_pretrained(model).num_parameters()


def layers_on(places: dict[str, int], gpu: int) -> list[int]:
    return sorted(int(name.rpartition(".")[2]) for name, at in places.items() if ".layers." in name and at == gpu)


def test_a_model_that_one_gpu_takes_easily_stays_there_unless_more_are_named(model: Path) -> None:
    room = {0: 100 * size_of(model), 1: 100 * size_of(model)}
    assert device_map(model, torch.float32, room, named=False) is None
    assert device_map(model, torch.float32, {0: room[0]}, named=True) is None
    places = device_map(model, torch.float32, room, named=True)
    assert places is not None
    first, second = layers_on(places, 0), layers_on(places, 1)
    assert first + second == list(range(LAYERS)), "whole layers, in the order in which they are computed"
    assert min(len(first), len(second)) >= 6, "about half each"
    assert places["model.embed_tokens"] == 0
    assert places["lm_head"] == 1


def test_a_model_that_one_gpu_can_not_take_goes_over_several(model: Path) -> None:
    places = device_map(model, torch.float32, dict.fromkeys(range(3), size_of(model) // 2), named=False)
    assert places is not None
    assert set(places.values()) == {0, 1, 2}


def test_uneven_gpus_get_what_they_have_room_for(model: Path) -> None:
    places = device_map(model, torch.float32, {0: size_of(model) // 3, 1: 2 * size_of(model)}, named=False)
    assert places is not None
    assert 0 < len(layers_on(places, 0)) < len(layers_on(places, 1))


def test_a_model_that_all_gpus_together_can_not_take_is_refused(model: Path) -> None:
    with pytest.raises(FineryError) as caught:
        device_map(model, torch.float32, {0: size_of(model) // 4, 1: size_of(model) // 4}, named=True)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert "default-zero3" in caught.value.message


def over_two_devices(model: Path, folder: Path) -> Any:
    """Over two GPUs where there are two; elsewhere every other layer waits on the disk, and as much is moved."""
    if torch.cuda.device_count() >= 2:
        places = device_map(model, torch.float32, free_memory(), named=True)
        assert places is not None and set(places.values()) >= {0, 1}
        return load_base(model, torch.float32, places)
    offloaded = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    offloaded |= {f"model.layers.{i}": "cpu" if i % 2 else "disk" for i in range(LAYERS)}
    split = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation=register(), device_map=offloaded, offload_folder=folder
    )
    assert next(split.model.layers[0].parameters()).device.type == "meta"
    assert next(split.model.layers[1].parameters()).device.type == "cpu"
    return split


def test_packed_rows_give_the_same_loss_and_gradients_over_two_devices(model: Path, tmp_path: Path) -> None:
    whole, split = load_base(model, torch.float32), over_two_devices(model, tmp_path)
    assert (is_spread(whole), is_spread(split)) == (False, True)
    batch = pack([Row((1, 2, 9, k, 4), (-100, -100, -100, k, 4)) for k in (5, 6, 7)])
    batch = {name: value.to(whole.device) if torch.is_tensor(value) else value for name, value in batch.items()}
    losses, gradients = [], []
    for loaded in (whole, split):
        loss = loaded(**batch, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append(loaded.model.layers[1].mlp.up_proj.weight.grad.cpu())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert torch.allclose(*gradients, atol=1e-6)
