"""Which arithmetic and device this machine offers."""

from __future__ import annotations

import torch

from finery_shared.errors import FineryError, Reason
from finery_shared.processor import multiplies_bf16

_FP8 = (8, 9)


def device() -> torch.device:
    """The first visible GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(name: str) -> torch.dtype:
    """The base model's type: the one asked for, and for "auto" bf16 where the hardware multiplies it, else fp32."""
    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    if name in named:
        return named[name]
    if device().type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if multiplies_bf16() else torch.float32


def check_base_precision(name: str) -> None:
    """Raise UNSUPPORTED when fp8 products are asked of a GPU that has none; only its driver tells."""
    if name != "fp8":
        return
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (0, 0)
    if (major, minor) < _FP8:
        here = f"this one has {major}.{minor}" if major else "torch finds none"
        raise FineryError(
            Reason.UNSUPPORTED,
            f"fp8 products need a GPU of compute capability 8.9 or more (Ada, Hopper, Blackwell), and {here}. Leave "
            "--base_precision out.",
            field="base_precision",
        )


def checking_dtype(trained: torch.dtype, parameters: int) -> torch.dtype:
    """The type in which a model of that many parameters is questioned: on a CPU a small one in fp32.

    Generating in bf16 is no faster there and takes three times the memory (SmolLM2, 56 questions: 4.2 against 1.4 GiB).
    """
    small = device().type == "cpu" and parameters < 1_000_000_000
    return torch.float32 if small else trained
