"""DeepSpeed, made ready for a run and put away after it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config


class PlainCpu(CPU_Accelerator):  # type: ignore[misc]  # DeepSpeed is not checked
    """A CPU whose ranks talk by gloo alone.

    DeepSpeed would compile an operator of its own for that when a run begins: half a minute, a compiler that may not be
    there, and a lock that a killed rank leaves behind for the next attempt to wait for.
    """

    def create_op_builder(self, op_name: str) -> Any:
        """The builder of an operator; none for the one that gloo stands in for."""
        return None if op_name == "ShareMemCommBuilder" else super().create_op_builder(op_name)


class Sharding:
    """While this lasts, transformers knows DeepSpeed's configuration, and loads models in shards if it is ZeRO-3.

    The ranks must have joined before.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if not torch.cuda.is_available():
            set_accelerator(PlainCpu())
        # DeepSpeed takes over the group that the ranks have formed, and reads its size from it.
        deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
        # transformers keeps a weak reference: this object is what keeps it alive.
        self._config: HfDeepSpeedConfig | None = HfDeepSpeedConfig(deepcopy(dict(config)))

    def end(self) -> None:
        """Have models loaded whole again."""
        self._config = None
        unset_hf_deepspeed_config()
