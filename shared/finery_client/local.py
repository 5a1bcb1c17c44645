"""How each service is started on this machine: its interpreter, its settings, its files."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery_client.launch import Program
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.home import Home, announced, join_paths, process_start_time, split_paths

SERVICES = ("trainer", "quantizer", "inference", "gateway")
"""Every service, in the order in which they start."""

PORTS = {"gateway": 8000, "trainer": 50051, "quantizer": 50052, "inference": 50053}
"""Default port of each service; further inference processes take the ports that follow."""

LOOPBACK = "127.0.0.1"


def label(service: str, instance: str | None = None) -> str:
    """A process as messages name it, for instance "inference service 1"."""
    name = "inference service" if service == "inference" else service
    return name if instance is None or instance == "0" or instance.startswith("private") else f"{name} {instance}"


@dataclass(frozen=True)
class Machine:
    """A place to run services: FINERY_HOME, and the directory and variables of the command."""

    home: Home
    cwd: Path
    env: Mapping[str, str]

    def program(
        self,
        service: str,
        announcement: Path,
        *,
        listen: str | None = None,
        instance: str | None = None,
        inference: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> Program:
        """A service as a program. ``listen`` is HOST:PORT, by default what the environment or the service says.

        ``instance`` names one of several inference processes; ``inference`` are the gateway's backends. Raises
        SERVICE_UNAVAILABLE when the service's environment is not built, INVALID_ARGUMENT for allowed roots that are no
        list.
        """
        prefix = f"FINERY_{service.upper()}_"
        env = {**self.env, "FINERY_HOME": str(self.home.root), f"{prefix}ANNOUNCE": str(announcement)}
        if listen is not None:
            env[f"{prefix}LISTEN"] = listen
        if service != "gateway":
            env[f"{prefix}ALLOWED_ROOTS"] = self._roots(f"{prefix}ALLOWED_ROOTS")
        if instance is not None:
            env[f"{prefix}INSTANCE"] = instance
        if inference:
            env["FINERY_INFERENCE"] = ",".join(inference)
        env.update(settings or {})
        command = (str(self.python(service)), "-m", f"finery_{service}")
        return Program(label(service, instance), command, env, announcement, self.log(service, instance))

    def log(self, service: str, instance: str | None = None) -> Path:
        """The file that a service's log goes to."""
        state = self.home.service(service)
        return (state / instance if instance is not None else state) / "service.log"

    def private_directory(self) -> Path:
        """Where the private processes of this command announce themselves; swept of what dead commands left."""
        run = self.home.service("run")
        for directory in (*run.glob("private-*"), *self.home.service("inference").glob("private-*")):
            if not _owner_lives(directory) and not any(announced(path) for path in directory.glob("*.json")):
                shutil.rmtree(directory, ignore_errors=True)
        return self.home.service(f"run/{private_name()}")

    def discard_private(self) -> None:
        """Remove what this command's private processes kept, but for a log, which messages name; a sweep takes that."""
        shutil.rmtree(self.home.service("run") / private_name(), ignore_errors=True)
        log = self.log("inference", private_name())
        for kept in log.parent.glob("*"):
            if kept.is_dir():
                shutil.rmtree(kept, ignore_errors=True)
            elif kept != log:
                kept.unlink(missing_ok=True)

    def _roots(self, setting: str) -> str:
        """What a setting allows, and the command's directory."""
        try:
            given = split_paths(self.env.get(setting, ""))
        except ValueError as error:
            raise invalid(setting, f"{error}.") from error
        return join_paths(dict.fromkeys([str(self.cwd), *given]))

    def python(self, service: str) -> Path:
        """The interpreter of a service's environment. Raises SERVICE_UNAVAILABLE if that is not built."""
        if service == "gateway":
            return Path(sys.executable)
        venvs = Path(self.env.get("FINERY_VENVS") or Path(sys.prefix).parent).absolute()
        python = venvs / service / "bin" / "python"
        if not python.exists():
            raise FineryError(
                Reason.SERVICE_UNAVAILABLE,
                f"The environment of the {service} is not built: there is no {python}. Run `make env-{service}`, or "
                "set FINERY_VENVS to the folder that has the environments.",
            )
        return python


def private_name() -> str:
    """Name of this command's private things: its pid and start time, since a pid alone is reused."""
    return f"private-{os.getpid()}-{process_start_time(os.getpid()) or 0}"


def _owner_lives(directory: Path) -> bool:
    _, pid, start = (*directory.name.split("-"), "", "")[:3]
    return pid.isdecimal() and start.isdecimal() and process_start_time(int(pid)) == int(start)
