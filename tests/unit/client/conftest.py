import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from finery_client.local import Machine
from finery_shared.home import Home

ROOT = Path(__file__).parents[3]

PROGRAMS = {
    "trainer": "-m tests.fakes.scripted_trainer",
    "quantizer": "-m tests.fakes.idle_service quantizer",
    "inference": "-m tests.fakes.idle_service inference with-a-child",
}


@pytest.fixture
def venvs(tmp_path: Path) -> Path:
    """Environments whose interpreters run fakes, whatever module they are asked for."""
    folder = tmp_path / "venvs"
    for service, program in PROGRAMS.items():
        write_interpreter(folder, service, program)
    return folder


def write_interpreter(folder: Path, service: str, program: str) -> None:
    python = folder / service / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(f"#!/bin/sh\ncd {ROOT}\nexec {sys.executable} {program}\n")
    python.chmod(0o755)


@pytest.fixture
def env(tmp_path: Path, venvs: Path) -> dict[str, str]:
    """An environment of this test's own: FINERY_HOME, fakes for services, nothing else of Finery's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FINERY_", "CUDA_", "NPROC"))}
    return kept | {"FINERY_HOME": str(tmp_path / "home"), "FINERY_VENVS": str(venvs)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def machine(home: Home, tmp_path: Path, env: dict[str, str]) -> Callable[..., Machine]:
    """A machine with further environment variables."""

    def make(extra: Mapping[str, str] | None = None) -> Machine:
        return Machine(home, tmp_path, env | dict(extra or {}))

    return make
