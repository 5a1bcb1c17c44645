"""A causal language model in memory, every one of its tensors accounted for."""

import math
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from finery_quantizer.backends.checkpoint.config import load_config
from finery_quantizer.backends.checkpoint.shards import storage_dtype, tensor_shapes
from finery_shared.errors import FineryError, Reason

_FP32_LIMIT_BYTES = 12 * 2**30


def pick_device() -> torch.device:
    """The first accelerator that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(directory: Path, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """The model on the CPU in `dtype`, by default the one that its files are in; never runs code from the directory.

    Raises MODEL_INVALID naming tensors that the files lack or have beyond the architecture's.
    """
    config = load_config(directory)
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory,
        config=config,
        torch_dtype=dtype or "auto",
        attn_implementation="sdpa",
        use_safetensors=True,
        low_cpu_mem_usage=True,
        output_loading_info=True,
        local_files_only=True,
    )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[problem]:
            names = ", ".join(str(name) for name in sorted(loading[problem])[:5])
            raise FineryError(
                Reason.MODEL_INVALID, f"{directory}: {problem.replace('_', ' ')} in its weights: {names}."
            )
    model.requires_grad_(False)
    loaded: PreTrainedModel = model.eval()
    return loaded


def checking_dtype(directory: Path) -> torch.dtype:
    """The dtype to check a model in: fp32, unless it is too large for that."""
    values = sum(math.prod(shape) for shape in tensor_shapes(directory).values())
    return torch.float32 if 4 * values < _FP32_LIMIT_BYTES else storage_dtype(directory)
