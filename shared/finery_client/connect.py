"""The services that a command uses: others' if there are some, else private ones for its duration."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from finery_client.endpoints import Directory, Endpoint
from finery_client.launch import Launch, ServiceProcess
from finery_client.local import LOOPBACK, Machine, label, private_name
from finery_client.specs import Surroundings
from finery_shared.errors import FineryError, Reason
from finery_shared.home import Home
from finery_shared.rpc.security import RpcSecurity

START_SECONDS = 60.0
"""A service that does not serve by then is given up."""

OWNER_SECONDS = 10.0
"""How long another command's private service is waited for: as long as a short command and its end may take."""

DRAIN_SECONDS = "3"
"""A private service has no other callers, so it need not wait long for them to finish."""

_LOOK_EVERY = 0.5


class Connection:
    """Endpoints by service. Use it in a ``with`` statement: at its end everything private is stopped.

    ``patience`` is how many seconds a private service waits for another command's to end.
    """

    def __init__(
        self, machine: Machine, notice: Callable[[str], None] | None = None, patience: float = OWNER_SECONDS
    ) -> None:
        self.here = Surroundings(machine.cwd, machine.env)
        self.directory = Directory(machine)
        self._machine = machine
        self._security = RpcSecurity.from_env(machine.env)
        self._notice = notice or (lambda _: None)
        self._patience = patience
        self._launch = Launch()
        self._private: dict[str, Endpoint] = {}
        self._announcements: Path | None = None

    @classmethod
    def from_env(cls, notice: Callable[[str], None] | None = None) -> Self:
        """By this process's environment and directory. ``notice`` hears the name of each service that is started."""
        return cls(Machine(Home.from_env(), Path.cwd(), os.environ), notice)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Stop what was started. Can be called again."""
        self._launch.stop()
        self._private.clear()
        if self._announcements is not None:
            self._machine.discard_private()
            self._announcements = None

    def endpoint(self, service: str, settings: Mapping[str, str] | None = None) -> Endpoint:
        """Where a service is; a private one is started if there is no other. Raises what keeps it from starting."""
        return self.endpoints(service, settings)[0]

    def endpoints(self, service: str, settings: Mapping[str, str] | None = None) -> tuple[Endpoint, ...]:
        """All processes of a service, as `endpoint`."""
        return self._find_or_start(service, self.directory.find, settings or {})

    def count(self, service: str) -> int:
        """How many `endpoints` gives; starts none."""
        return 1 if service in self._private else len(self.directory.find(service)) or 1

    def pids(self) -> list[int]:
        """All living private processes, workers and engines included."""
        return self._launch.pids()

    def owner(self, service: str) -> Endpoint:
        """The process that owns the jobs of a service, be it private to another command.

        A private one that has to be started takes no job from the queue, since it will not be there to finish it.
        """
        settings = {f"FINERY_{service.upper()}_MAX_RUNNING_JOBS": "0"}
        return self._find_or_start(service, self.directory.find_any, settings)[0]

    def death(self) -> FineryError | None:
        """Why one of the private processes has ended; None while all of them live."""
        return next((death for one in self._private.values() if (death := one.death()) is not None), None)

    def serving(self, port: int = 0) -> tuple[tuple[Endpoint, ...], Endpoint]:
        """The inference processes, and a gateway that routes to them.

        A gateway that this command has to start listens on ``port`` (0: a free one). Another's gateway is only used
        with another's inference processes, since it does not know private ones.
        """
        inference = self.endpoints("inference")
        if not inference[0].private and (found := self._gateways()):
            return inference, found[0]
        if "gateway" not in self._private:
            backends = [endpoint.address for endpoint in inference]
            self._wait("gateway", self._begin("gateway", f"{LOOPBACK}:{port}", None, backends, {}))
        return inference, self._private["gateway"]

    def start_all(self) -> None:
        """Start private processes of all services, side by side."""
        begun = {service: self._begin_own(service, {}) for service in ("trainer", "quantizer", "inference")}
        for service, process in begun.items():
            self._wait(service, process)
        self.serving()

    def _gateways(self) -> tuple[Endpoint, ...]:
        """Others' gateways that know the inference processes in use: `finery up`'s knows its own alone."""
        named = self.directory.named("gateway")
        return named if named or self.directory.named("inference") else self.directory.announced("gateway")

    def _find_or_start(
        self, service: str, find: Callable[[str], tuple[Endpoint, ...]], settings: Mapping[str, str]
    ) -> tuple[Endpoint, ...]:
        """What ``find`` finds, else a private process. While another command's is in the way, both are tried again."""
        if service in self._private:
            return (self._private[service],)
        if found := find(service):
            return found
        process = self._begin_own(service, settings)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return (self._wait(service, process),)
            except FineryError as error:
                if error.reason is not Reason.ALREADY_RUNNING:
                    raise
                self._launch.forget(process)
                if found := find(service):
                    return found
                if time.monotonic() > deadline:
                    raise self._owned(service, error) from error
            time.sleep(_LOOK_EVERY)
            process = self._launch.start(process.program)

    def _owned(self, service: str, error: FineryError) -> FineryError:
        """Why a private process of a service can't be had, which others own."""
        owners = self.directory.private(service)
        if not owners:
            return error
        message = (
            f"Another finery command runs its own {label(service)} (process {owners[0].pid}). Wait for it; or stop it, "
            "run `finery up`, and give both commands to that."
        )
        return FineryError(error.reason, message)

    def _begin_own(self, service: str, settings: Mapping[str, str]) -> ServiceProcess:
        instance = private_name() if service == "inference" else None
        return self._begin(service, f"{LOOPBACK}:0", instance, [], settings)

    def _begin(
        self, service: str, listen: str, instance: str | None, inference: list[str], settings: Mapping[str, str]
    ) -> ServiceProcess:
        self._announcements = self._announcements or self._machine.private_directory()
        drain = {f"FINERY_{service.upper()}_DRAIN_SECONDS": DRAIN_SECONDS}
        program = self._machine.program(
            service,
            self._announcements / f"{service}.json",
            listen=listen,
            instance=instance,
            inference=inference,
            settings={**drain, **settings},
        )
        self._notice(service)
        return self._launch.start(program)

    def _wait(self, service: str, process: ServiceProcess) -> Endpoint:
        address = process.wait_ready(START_SECONDS)
        endpoint = Endpoint(service, address, private=True, security=self._security, death=process.death)
        self._private[service] = endpoint
        return endpoint
