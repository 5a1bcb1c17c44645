"""Whether vLLM can multiply int4 weights on this machine.

vLLM loads entry points of the group ``vllm.general_plugins`` in each of its processes: ours is `register_where_needed`.
"""

from __future__ import annotations

import importlib

from finery_inference.engines.vllm.hardware import is_cpu_build
from finery_shared.processor import lacks_avx512


def register_where_needed() -> None:
    """Bring a kernel where vLLM has none; elsewhere nothing of vLLM is touched, or even imported."""
    if is_cpu_build() and lacks_avx512():
        importlib.import_module("finery_inference.engines.vllm.expanded_int4").register()
