"""Gates on the bytes of a checkpoint: its tensors and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from finery_shared.errors import FineryError, Reason
from finery_trainer.recipes.checkpoints import ADAPTER_FILES, tokenizer_files
from finery_trainer.recipes.weights import tensors


def check_adapter(directory: Path, target_modules: Sequence[str], layers: int, *, dora: bool = False) -> None:
    """Every adapted layer has both of its matrices, every value is finite, and B is not zero throughout.

    With DoRA each has a vector of magnitudes too. B starts at zero: an adapter in which it still is does nothing.
    Raises GATE_FAILED.
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
    for matrix in ("lora_A", "lora_B", "lora_magnitude_vector") if dora else ("lora_A", "lora_B"):
        found = sum(f".{matrix}" in name for name in norms)
        wanted = layers * len(target_modules)
        if found != wanted:
            raise failed("adapter", f"{file} holds {found} {matrix} tensors, not {wanted}: it was not saved whole.")
    if not any(norm > 0 for name, norm in norms.items() if ".lora_B." in name):
        raise failed("adapter", f"{file}: every B is zero, so the adapter changes nothing. Train for more steps.")


def check_model(directory: Path, base: Path) -> None:
    """Every tensor of the base model is there in its type and shape, every value is finite, and one has changed.

    Raises GATE_FAILED.
    """
    try:
        found, wanted = dict(_digests(directory)), dict(_digests(base))
    except (SafetensorError, OSError) as error:
        raise failed("model", f"{directory} can't be read back ({error}). Check the disk, and train again.") from error
    for name in sorted(found.keys() ^ wanted.keys()):
        raise failed("model", f"{directory}: {name} is in one of this model and its base alone: not saved whole.")
    for name, digest in found.items():
        if not digest.finite:
            raise failed("model", f"{directory}: {name} holds values that are not finite. Lower --learning_rate.")
        if (digest.dtype, digest.shape) != (wanted[name].dtype, wanted[name].shape):
            raise failed("model", f"{directory}: {name} has another type or shape than in the base model.")
    if found == wanted:
        raise failed(
            "model",
            f"{directory}: no weight has changed in {next(iter(found.values())).dtype}. Train for more steps, or raise "
            "--learning_rate.",
        )


@dataclass(frozen=True)
class _Digest:
    dtype: torch.dtype
    shape: torch.Size
    finite: bool
    sha256: bytes


def _digests(directory: Path) -> Iterator[tuple[str, _Digest]]:
    for name, tensor in tensors(directory):
        content = sha256(tensor.contiguous().view(torch.uint8).numpy()).digest()
        yield name, _Digest(tensor.dtype, tensor.shape, bool(torch.isfinite(tensor).all()), content)


def check_tokenizer(directory: Path, base: Path) -> None:
    """The tokenizer's files are the base model's, byte for byte. Raises GATE_FAILED."""
    own, original = tokenizer_files(directory), tokenizer_files(base)
    for name in sorted(own.keys() | original.keys()):
        if name not in own or name not in original or own[name].read_bytes() != original[name].read_bytes():
            raise failed("tokenizer", f"{directory / name} is not the base model's. Check the disk, and train again.")


def failed(gate: str, message: str) -> FineryError:
    """The error of a gate that was not passed."""
    return FineryError(Reason.GATE_FAILED, message, gate=gate)
