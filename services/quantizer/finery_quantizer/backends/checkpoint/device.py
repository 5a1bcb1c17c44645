"""Where and in which dtype models are worked on."""

import math
from pathlib import Path

import torch

from finery_quantizer.backends.checkpoint.shards import storage_dtype, tensor_shapes

_FP32_LIMIT_BYTES = 12 * 2**30


def pick_device() -> torch.device:
    """The first accelerator that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def checking_dtype(directory: Path) -> torch.dtype:
    """The dtype to check a model in: fp32, unless it is too large for that."""
    values = sum(math.prod(shape) for shape in tensor_shapes(directory).values())
    return torch.float32 if 4 * values < _FP32_LIMIT_BYTES else storage_dtype(directory)
