"""Gates on bytes: what was written is read back."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.gates.files import check_adapter, check_tokenizer

MODULES = ("q_proj", "down_proj")


def tensors(layers: int = 2) -> dict[str, torch.Tensor]:
    made = {}
    for layer in range(layers):
        for module in MODULES:
            name = f"base_model.model.model.layers.{layer}.{module}"
            made[f"{name}.lora_A.weight"] = torch.ones(2, 4)
            made[f"{name}.lora_B.weight"] = torch.full((4, 2), 0.1)
    return made


def write(directory: Path, content: dict[str, torch.Tensor]) -> Path:
    save_file(content, directory / "adapter_model.safetensors")
    return directory


def refused(directory: Path) -> str:
    with pytest.raises(FineryError) as caught:
        check_adapter(directory, MODULES, 2)
    assert caught.value.reason is Reason.GATE_FAILED
    assert caught.value.metadata["gate"] == "adapter"
    return caught.value.message


def test_a_whole_adapter_passes(tmp_path: Path) -> None:
    check_adapter(write(tmp_path, tensors()), MODULES, 2)


def test_a_zeroed_adapter_fails(tmp_path: Path) -> None:
    zeroed = {name: t * 0 if "lora_B" in name else t for name, t in tensors().items()}
    assert "every B is zero" in refused(write(tmp_path, zeroed))


def test_a_value_that_is_no_number_fails_with_its_name(tmp_path: Path) -> None:
    broken = tensors()
    name = next(iter(broken))
    broken[name][0, 0] = float("nan")
    assert name in refused(write(tmp_path, broken))


def test_a_missing_layer_fails(tmp_path: Path) -> None:
    assert "2 lora_A tensors, not 4" in refused(write(tmp_path, tensors(layers=1)))


def test_a_truncated_file_fails(tmp_path: Path) -> None:
    file = write(tmp_path, tensors()) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert "can't be read back" in refused(tmp_path)


@pytest.mark.parametrize("change", ["swapped", "missing", "added"])
def test_another_tokenizer_fails(tmp_path: Path, change: str) -> None:
    base, own = tmp_path / "base", tmp_path / "own"
    for directory in (base, own):
        directory.mkdir()
        (directory / "tokenizer.json").write_text('{"a": 1}')
        (directory / "chat_template.jinja").write_text("{{ x }}")
    check_tokenizer(own, base)
    if change == "swapped":
        (own / "tokenizer.json").write_text('{"a": 2}')
    elif change == "missing":
        (own / "chat_template.jinja").unlink()
    else:
        (own / "merges.txt").write_text("")
    with pytest.raises(FineryError) as caught:
        check_tokenizer(own, base)
    assert caught.value.metadata["gate"] == "tokenizer"
