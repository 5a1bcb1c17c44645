"""Gateway and inference processes, started for real and stopped for sure."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from finery_shared.home import announced

ROOT = Path(__file__).parents[3]


class Processes:
    """Every process that a test starts; ``stop`` ends those that are left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._all: list[subprocess.Popen[bytes]] = []

    def spawn(self, module: str, *arguments: str, python: str = sys.executable, **environment: str) -> "Process":
        number = len(self._all)
        log = self._directory / f"{number}.log"
        announcement = self._directory / f"{number}.json"
        names = {
            "FINERY_GATEWAY_ANNOUNCE": str(announcement),
            "FINERY_INFERENCE_ANNOUNCE": str(announcement),
            "FINERY_HOME": str(self._directory / "home"),
        }
        if module.startswith("tests."):
            arguments = (*arguments, "--announce", str(announcement))
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [python, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **names, **environment},
                stdout=file,
                stderr=file,
            )
        self._all.append(popen)
        return Process(popen, log, announcement)

    def inference(self, *arguments: str, **environment: str) -> "Process":
        return self.spawn("tests.fakes.inference_service", *arguments, **environment)

    def gateway(self, *backends: "Process", **environment: str) -> "Process":
        addresses = ",".join(b.address() for b in backends)
        listen = {"FINERY_GATEWAY_LISTEN": "127.0.0.1:0", "FINERY_INFERENCE": addresses}
        return self.spawn("finery_gateway", **(listen | environment))

    def stop(self) -> None:
        for popen in self._all:
            popen.kill()
            popen.wait()


class Process:
    """One of them."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path, announcement: Path) -> None:
        self._popen = popen
        self._log = log
        self.announcement = announcement

    def address(self) -> str:
        """Where it serves; waits until it does."""
        wait_until(lambda: announced(self.announcement) is not None or self._popen.poll() is not None)
        entry = announced(self.announcement)
        assert entry is not None, self.log()
        return entry.address

    def log(self) -> str:
        return self._log.read_text()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self._popen.pid).children()

    def kill(self) -> None:
        self._popen.kill()

    def freeze(self) -> None:
        self._popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._popen.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def terminate(self) -> None:
        self._popen.terminate()

    def exit_status(self, seconds: float = 20) -> int:
        return self._popen.wait(seconds)


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
