"""What the system tells of the processor."""

from pathlib import Path

import pytest

from finery_shared.processor import lacks_avx512, multiplies_bf16


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f", False),
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: amx_bf16", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("Features\t: fp asimd", False),
    ],
)
def test_products_in_bf16(tmp_path: Path, line: str, expected: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\nflags\t\t: avx512_bf16\n")
    assert multiplies_bf16(cpuinfo) is expected


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [("x86_64", "avx2", True), ("x86_64", "avx2 avx512f", False), ("aarch64", "asimd", False)],
)
def test_avx512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, expected: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    assert lacks_avx512(tmp_path / "cpuinfo") is expected


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    assert multiplies_bf16(tmp_path / "none") is False
