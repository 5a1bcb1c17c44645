"""Gates on the bytes of a checkpoint: its tensors and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.checkpoints import ADAPTER_FILES, tokenizer_files


def check_adapter(directory: Path, target_modules: Sequence[str], layers: int) -> None:
    """Every adapted layer has both of its matrices, every value is finite, and B is not zero throughout.

    B starts at zero: an adapter in which it still is does nothing. Raises GATE_FAILED.
    """
    file = directory / ADAPTER_FILES[1]
    norms: dict[str, float] = {}
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name)
                if not bool(torch.isfinite(tensor).all()):
                    raise failed("adapter", f"{file}: {name} holds values that are not finite. Lower --learning_rate.")
                norms[name] = float(tensor.float().norm())
    except (SafetensorError, OSError) as error:
        raise failed("adapter", f"{file} can't be read back ({error}). Check the disk, and train again.") from error
    for matrix in ("lora_A", "lora_B"):
        found = sum(f".{matrix}." in name for name in norms)
        wanted = layers * len(target_modules)
        if found != wanted:
            raise failed("adapter", f"{file} holds {found} {matrix} matrices, not {wanted}: it was not saved whole.")
    if not any(norm > 0 for name, norm in norms.items() if ".lora_B." in name):
        raise failed("adapter", f"{file}: every B is zero, so the adapter changes nothing. Train for more steps.")


def check_tokenizer(directory: Path, base: Path) -> None:
    """The tokenizer's files are the base model's, byte for byte. Raises GATE_FAILED."""
    own, original = tokenizer_files(directory), tokenizer_files(base)
    for name in sorted(own.keys() | original.keys()):
        if name not in own or name not in original or own[name].read_bytes() != original[name].read_bytes():
            raise failed("tokenizer", f"{directory / name} is not the base model's. Check the disk, and train again.")


def failed(gate: str, message: str) -> FineryError:
    """The error of a gate that was not passed."""
    return FineryError(Reason.GATE_FAILED, message, gate=gate)
