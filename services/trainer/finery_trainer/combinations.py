"""What can't work together, said before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finery_shared.errors import FineryError, Reason
from finery_trainer import zero
from finery_trainer.spec import TrainingSpec


@dataclass(frozen=True)
class Machine:
    """What a job finds: the number of GPUs that it may see, and of processor cores."""

    gpus: int
    cores: int


def look_around(spec: TrainingSpec, environment: Mapping[str, str], devices: Path = Path("/dev")) -> Machine:
    """The machine as the job's worker will see it; without a GPU library, which would be slow to load."""
    present = sum(path.name.removeprefix("nvidia").isdecimal() for path in devices.glob("nvidia*"))
    chosen = spec.cuda_visible_devices
    if chosen is None:
        chosen = environment.get("CUDA_VISIBLE_DEVICES")
    named = present if chosen is None else len([name for name in chosen.split(",") if name.strip()])
    return Machine(min(present, named), len(os.sched_getaffinity(0)))


def check_combination(spec: TrainingSpec, machine: Machine) -> None:
    """Raise UNSUPPORTED naming a field, the reason, and what works instead; and what `zero.read` raises."""
    _check_ranks(spec, machine)
    _check_deepspeed(spec, machine)
    _check_fp8(spec, machine)
    _check_full(spec)


def _check_ranks(spec: TrainingSpec, machine: Machine) -> None:
    ranks = spec.nproc_per_node
    if machine.gpus and ranks > machine.gpus:
        raise _refused(
            "nproc_per_node",
            f"{ranks} ranks need a GPU each, and this job sees {machine.gpus}. Lower --nproc_per_node, or name more "
            "GPUs in --cuda_visible_devices.",
        )
    if not machine.gpus and ranks > machine.cores:
        raise _refused(
            "nproc_per_node",
            f"{ranks} ranks on {machine.cores} processor cores would only wait for each other. Lower --nproc_per_node.",
        )


def _check_deepspeed(spec: TrainingSpec, machine: Machine) -> None:
    if not spec.deepspeed:
        return
    zero.read(spec)
    if spec.nproc_per_node == 1 and spec.cuda_visible_devices is not None and machine.gpus > 1:
        raise _refused(
            "deepspeed",
            f"One process would spread the model's layers over {machine.gpus} GPUs, and DeepSpeed shards over "
            f"processes: the two exclude each other. Set --nproc_per_node {machine.gpus}, or leave --deepspeed out.",
        )
    if not machine.gpus and spec.dtype == "fp16":
        raise _refused("dtype", "DeepSpeed has no fp16 arithmetic on a CPU. Use --dtype bf16 or fp32.")


def _check_fp8(spec: TrainingSpec, machine: Machine) -> None:
    if spec.base_precision != "fp8":
        return
    if not machine.gpus:
        raise _refused(
            "base_precision", "fp8 products need a GPU of compute capability 8.9. Leave --base_precision out."
        )
    if spec.sft_type == "full":
        raise _refused("base_precision", "fp8 is for a frozen base, and --sft_type full freezes nothing. Use bf16.")
    if spec.deepspeed:
        raise _refused(
            "base_precision",
            "DeepSpeed casts and shards the base's weights, and fp8 copies of them would go stale. Leave --deepspeed "
            "or --base_precision out; several GPUs work with --nproc_per_node alone.",
        )
    if spec.use_dora:
        raise _refused("base_precision", "DoRA takes the norms of the base's own weights. Leave one of the two out.")


def _check_full(spec: TrainingSpec) -> None:
    for field in ("use_rslora", "use_dora"):
        if spec.sft_type == "full" and getattr(spec, field):
            raise _refused(
                field, f"--{field} is a kind of adapter, and --sft_type full has none. Leave one of the two out."
            )


def _refused(field: str, message: str) -> FineryError:
    return FineryError(Reason.UNSUPPORTED, message, field=field)
