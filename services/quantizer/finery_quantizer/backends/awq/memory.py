"""How much memory quantizing a model takes, told before it begins."""

import math
from pathlib import Path

import torch
from torch import nn

from finery_quantizer.backends.awq.options import AwqOptions
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.errors import FineryError, Reason

_GIB = 2**30


def check_memory(model: StreamedModel, blocks: int, length: int, options: AwqOptions) -> None:
    """Raise OUT_OF_MEMORY with an estimate unless the search over `blocks` of `length` tokens fits."""
    hidden, layer = device_bytes(model, blocks, length, options)
    there = free_bytes(model.device)
    if hidden + layer > there:
        where = "of GPU memory" if model.device.type == "cuda" else "of memory"
        raise FineryError(
            Reason.OUT_OF_MEMORY,
            f"Quantizing this model takes about {(hidden + layer) / _GIB:.1f} GiB {where}, {hidden / _GIB:.1f} of them "
            f"for {blocks * length} calibration tokens, and {there / _GIB:.1f} GiB are free: lower --quant_n_samples, "
            "end what else uses the memory, or use a machine with more.",
        )


def device_bytes(model: StreamedModel, blocks: int, length: int, options: AwqOptions) -> tuple[int, int]:
    """Estimates: bytes of the hidden states of all calibration tokens, and of all else while a layer is worked on."""
    linears = [m for m in model.layers[0].modules() if isinstance(m, nn.Linear)]
    values = sum(p.numel() for p in model.layers[0].parameters())
    largest = max(linear.weight.numel() for linear in linears)
    width = sum(linear.in_features + linear.out_features for linear in linears)
    size = model.dtype.itemsize
    chunk = min(options.chunk_tokens, blocks * length) * width * size
    # The layer and its finalists beside a chunk's activations, rounding one more candidate in fp32 ...
    searching = (1 + options.finalists) * values * size + chunk + 5 * 4 * largest
    # ... or the layer in fp32, and one linear being clipped and packed.
    folding = 4 * values + 8 * 4 * largest
    return blocks * length * model.model.config.hidden_size * size, max(searching, folding)


def free_bytes(device: torch.device) -> float:
    """Memory that this process may still take on `device`: of the host, within the limit of its control group."""
    if device.type == "cuda":
        free: float = torch.cuda.mem_get_info(device)[0]
        return free
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return min(available, _left_to_group(Path("/sys/fs/cgroup")))


def _left_to_group(group: Path) -> float:
    """Bytes until the limit of a control group (cgroup v2), infinite without one.

    Cached files count as used there, and are given up when memory is needed: mapped weights fill it at once.
    """
    try:
        limit, used, stat = (
            (group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current", "stat")
        )
    except OSError:
        return math.inf
    if limit == "max":
        return math.inf
    counts = dict(line.split() for line in stat.splitlines())
    return int(limit) - int(used) + int(counts["active_file"]) + int(counts["inactive_file"])
