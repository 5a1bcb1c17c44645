"""Reads a written AWQ model back from disk: what a serving engine would compute with."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from finery_quantizer.backends.awq.packing import PackedWeight, unpack
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint
from finery_quantizer.backends.checkpoint.shards import read_tensors, weight_files
from finery_shared.errors import FineryError, Reason

_PARTS = ("qweight", "qzeros", "scales")


def read_quantized(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a GEMM checkpoint by name; packed linears as fp32 weights [out, in]."""
    waiting: dict[str, dict[str, Tensor]] = {}
    for file in weight_files(directory):
        for name, tensor in read_tensors(file):
            linear, _, suffix = name.rpartition(".")
            if suffix not in _PARTS:
                yield name, tensor
                continue
            parts = waiting.setdefault(linear, {})
            parts[suffix] = tensor
            if len(parts) == len(_PARTS):
                yield f"{linear}.weight", unpack(PackedWeight(**waiting.pop(linear)))
    for linear, parts in waiting.items():
        raise _failed(f"{directory}: {linear} lacks {', '.join(sorted(set(_PARTS) - set(parts)))}")


def verified(directory: Path, fingerprints: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The same, each compared with the fingerprint of what was meant to be written.

    Raises GATE_FAILED naming the first tensor that differs, is missing, or was not expected.
    """
    missing = set(fingerprints)
    for name, tensor in read_quantized(directory):
        if fingerprints.get(name) != fingerprint(tensor):
            problem = "is not what was quantized" if name in missing else "was not expected"
            raise _failed(f"{directory}: {name}, read back from disk, {problem}")
        missing.discard(name)
        yield name, tensor
    if missing:
        raise _failed(f"{directory}: missing from its files: {', '.join(sorted(missing)[:5])}")


def _failed(problem: str) -> FineryError:
    message = f"{problem}. The disk or another process changed it; run the job again, and check the disk if it recurs."
    return FineryError(Reason.GATE_FAILED, message, gate="readback")
