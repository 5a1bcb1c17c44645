import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from finery_client.guard import _environment, _pids
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


FREE_PORTS = {f"FINERY_{name}_LISTEN": "127.0.0.1:0" for name in ("TRAINER", "QUANTIZER", "INFERENCE", "GATEWAY")}


class Command(subprocess.Popen[str]):
    """A running command; a ``with`` block that fails does not wait for it."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, None)


class Finery:
    """Runs the command in a directory of its own."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self.env = env
        self.cwd = cwd

    def start(self, *words: str, **env: str) -> Command:
        return Command(
            [sys.executable, "-m", "finery_client.cli", *words],
            env=self.env | env,
            cwd=self.cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **env) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def processes(self) -> list[int]:
        """What lives with this test's FINERY_HOME."""
        mark = f"FINERY_HOME={self.env['FINERY_HOME']}".encode()
        return [pid for pid in _pids() if mark in _environment(pid)]


@pytest.fixture
def finery(env: dict[str, str], tmp_path: Path) -> Iterator[Finery]:
    command = Finery(env, tmp_path)
    yield command
    assert command.processes() == [], "something was left running"


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """The lines of stderr up to the one with that text."""
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} did not come: {seen}")


def finish(process: subprocess.Popen[str], seconds: float = 30.0) -> tuple[str, str]:
    """The rest of both streams; little enough to fit the pipes. Unlike communicate it knows what is buffered."""
    process.wait(seconds)
    assert process.stdout is not None and process.stderr is not None
    return process.stdout.read(), process.stderr.read()


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
