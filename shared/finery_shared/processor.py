"""What this machine's processor can do."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Any of these flags tells of instructions that multiply bf16; the last one is Arm's."""


def multiplies_bf16(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the processor has instructions for bf16 products; False where the system doesn't tell.

    Without them a product in bf16 or fp16 takes two to ten times as long as one in fp32.
    """
    return not _BF16.isdisjoint(_flags(cpuinfo))


def lacks_avx512(cpuinfo: Path = _CPUINFO) -> bool:
    """Whether it is an x86 processor without AVX512."""
    return platform.machine() == "x86_64" and "avx512f" not in _flags(cpuinfo)


def _flags(cpuinfo: Path) -> set[str]:
    """The first processor's feature flags."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next(
        (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )
