"""Where a model's layers go when one process sees several GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import infer_auto_device_map, init_empty_weights
from accelerate.utils import compute_module_sizes
from transformers import AutoConfig, AutoModelForCausalLM

from finery_shared.errors import FineryError, Reason

_USABLE = 0.9
"""Share of a GPU's free memory that weights may take before the rest of training can't fit."""

_COMFORTABLE = 0.5
"""Share of the first GPU's free memory up to which a model stays on it alone, unless several were named."""


def device_map(directory: Path, dtype: torch.dtype, free: Mapping[int, int], *, named: bool) -> dict[str, int] | None:
    """The GPU of each part of the model in ``directory``, by module name; None when the first GPU takes all of it.

    ``free`` is the memory in bytes of each visible GPU, ``named`` whether the job names its GPUs: then all are used.
    Decoder layers stay whole, and the parts lie in the order in which they are computed. Raises OUT_OF_MEMORY.
    """
    if len(free) < 2:
        return None
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory, local_files_only=True))
    model.tie_weights()
    sizes = compute_module_sizes(model, dtype=dtype)
    weights = sizes[""]
    if not named and weights <= _COMFORTABLE * free[min(free)]:
        return None
    blocks = set(model._no_split_modules or ())
    largest = max(sizes[name] for name, part in model.named_modules() if name and _is_whole(part, blocks))
    even = weights // len(free) + largest
    for share in (even, weights):
        room: dict[int | str, int] = {gpu: min(share, int(_USABLE * memory)) for gpu, memory in free.items()}
        found = infer_auto_device_map(
            model, max_memory=room | {"cpu": 0}, no_split_module_classes=list(blocks), dtype=dtype
        )
        if all(isinstance(place, int) for place in found.values()):
            return dict(found)
    total = sum(free.values())
    raise FineryError(
        Reason.OUT_OF_MEMORY,
        f"The model's weights take {weights / 2**30:.1f} GiB, and the {len(free)} visible GPUs have "
        f"{total / 2**30:.1f} GiB free. Name more of them in --cuda_visible_devices, or shard the model by "
        "--nproc_per_node and --deepspeed default-zero3.",
    )


def free_memory() -> dict[int, int]:
    """Bytes that each visible GPU has free."""
    return {gpu: torch.cuda.mem_get_info(gpu)[0] for gpu in range(torch.cuda.device_count())}


def is_spread(model: Any) -> bool:
    """Whether the parts of a loaded model lie on several devices."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def _is_whole(part: torch.nn.Module, blocks: set[str]) -> bool:
    return type(part).__name__ in blocks or not list(part.children())
