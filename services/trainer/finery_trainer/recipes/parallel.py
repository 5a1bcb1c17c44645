"""The ranks of an attempt: how they join, shard by DeepSpeed, and part again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.ranks import RankPlace
from finery_trainer import zero
from finery_trainer.planning import TrainingPlan

_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others; one that died is noticed at once by torchrun."""

_DTYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def sharding(plan: TrainingPlan, dtype: torch.dtype) -> dict[str, Any] | None:
    """DeepSpeed's configuration for a plan, complete; None without DeepSpeed. Raises what `zero.read` raises."""
    spec = plan.spec
    if not spec.deepspeed:
        return None
    return zero.complete(
        zero.read(spec),
        dtype=_DTYPES[dtype],
        hidden_size=plan.model.spec.shape.hidden_size,
        full=spec.sft_type == "full",
    )


@contextmanager
def together(place: RankPlace | None, config: Mapping[str, Any] | None) -> Iterator[None]:
    """Be one of the ranks for as long as this lasts; nothing happens when the process works by itself.

    Under ZeRO-3 a model that is loaded meanwhile comes in shards; afterwards models are loaded whole again.
    """
    if place is None:
        yield
        return
    _join(place)
    with _sharded(config):
        yield
    distributed.barrier()
    distributed.destroy_process_group()


def rank_arguments(place: RankPlace | None, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """What transformers' TrainingArguments must know of ranks and shards."""
    arguments: dict[str, Any] = {}
    if place is not None:
        arguments["ddp_find_unused_parameters"] = False  # every trained parameter takes part in every forward pass
        arguments["ddp_broadcast_buffers"] = False  # they are constants, and ranks need not make equally many passes
    if config is not None:
        arguments["deepspeed"] = dict(config)
        arguments |= {name: bool(config[name]["enabled"]) for name in ("bf16", "fp16")}
    return arguments


def parameter_count(model: Any, *, trainable: bool = False) -> int:
    """Parameters of a model, or those that are trained, also of one that lies in shards."""
    counted = (parameter for parameter in model.parameters() if parameter.requires_grad or not trainable)
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in counted)


def sum_over_ranks(value: int) -> int:
    """The sum of a number over all ranks, which must all ask for it; the number itself where there is one process."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor([value], device=device)
    distributed.all_reduce(values)
    return int(values.item())


def _join(place: RankPlace) -> None:
    """Form the process group through a file, so that no rank listens beyond this machine."""
    gpu = torch.cuda.is_available()
    if gpu:
        seen = torch.cuda.device_count()
        if seen < place.size:
            raise FineryError(
                Reason.UNSUPPORTED, f"{place.size} ranks need a GPU each, and {seen} are seen. Lower --nproc_per_node."
            )
        torch.cuda.set_device(place.rank)
    distributed.init_process_group(
        "nccl" if gpu else "gloo",
        store=distributed.FileStore(str(place.store), place.size),
        rank=place.rank,
        world_size=place.size,
        timeout=_PATIENCE,
        device_id=torch.device("cuda", place.rank) if gpu else None,
    )


@contextmanager
def _sharded(config: Mapping[str, Any] | None) -> Iterator[None]:
    if config is None:
        yield
        return
    from finery_trainer.recipes.sharding import Sharding  # imports DeepSpeed, which takes seconds

    held = Sharding(config)
    try:
        yield
    finally:
        held.end()
