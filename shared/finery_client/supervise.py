"""`finery up`: the services of this machine, started together, kept alive, and stopped together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from finery_client.connect import START_SECONDS
from finery_client.launch import Launch, ServiceProcess
from finery_client.local import LOOPBACK, PORTS, Machine, label
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.home import announced
from finery_shared.jobs.ownership import OwnerLock

FIRST_PAUSE = 0.5
LAST_PAUSE = 30.0
STEADY_SECONDS = 60.0
"""A process that lived this long starts again without a longer pause."""

_INSTEAD = "Use it, stop it first, or set another FINERY_HOME."


@dataclass
class Member:
    """One process that is to run; ``address`` is kept when it is started again."""

    service: str
    instance: str | None
    address: str
    process: ServiceProcess | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE
    start_at: float = field(default=0.0)
    inference: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The process as people call it."""
        return label(self.service, self.instance)


class Supervisor:
    """Starts the members, restarts those that die with growing pauses, stops them all."""

    def __init__(self, machine: Machine, notice: Callable[[str], None]) -> None:
        self._machine = machine
        self._notice = notice
        self._launch = Launch()
        self._lock = OwnerLock(machine.home.service("run"))
        self.members: list[Member] = []

    def start(self, inference_processes: int) -> None:
        """Start everything and wait until it serves.

        Raises ALREADY_RUNNING, or what keeps a process from starting; nothing is left running then.
        """
        if inference_processes < 1:
            raise invalid("inference_processes", f"{inference_processes} is not a number of processes; 1 or more is.")
        self._own()
        inference = [Member("inference", str(n), self._listen("inference", n)) for n in range(inference_processes)]
        first = [Member(name, None, self._listen(name)) for name in ("trainer", "quantizer")] + inference
        self.members = first
        try:
            self._refuse_announced()
            for member in first:
                self._begin(member)
            for member in first:
                self._await(member)
            gateway = Member("gateway", None, self._listen("gateway"), inference=tuple(m.address for m in inference))
            self.members = [gateway, *first]
            self._begin(gateway)
            self._await(gateway)
        except BaseException:
            self.stop()
            raise

    def tend(self) -> None:
        """Look after every member once: note who died, start again whose pause is over."""
        now = time.monotonic()
        for member in self.members:
            if member.process is None:
                if now >= member.start_at:
                    self._begin(member)
                continue
            death = member.process.death()
            if death is not None:
                self._note_death(member, death, now)

    def stop(self) -> None:
        """Stop everything."""
        self._launch.stop()
        self._lock.release()

    def _note_death(self, member: Member, death: FineryError, now: float) -> None:
        assert member.process is not None
        self._launch.forget(member.process)
        member.process = None
        member.pause = FIRST_PAUSE if now - member.started > STEADY_SECONDS else min(2 * member.pause, LAST_PAUSE)
        member.start_at = now + member.pause
        self._notice(f"{death.message} Starting it again in {member.pause:g} s.")

    def _begin(self, member: Member) -> None:
        announcement = self._machine.home.announcement(_announcement_name(member))
        program = self._machine.program(
            member.service,
            announcement,
            listen=member.address,
            instance=member.instance,
            inference=member.inference,
        )
        member.process = self._launch.start(program)
        member.started = time.monotonic()

    def _await(self, member: Member) -> None:
        assert member.process is not None
        member.address = member.process.wait_ready(START_SECONDS)

    def _listen(self, service: str, offset: int = 0) -> str:
        """Where to listen: what the environment says, else the default port; further processes take the next ones."""
        given = self._machine.env.get(f"FINERY_{service.upper()}_LISTEN") or f"{LOOPBACK}:{PORTS[service]}"
        host, _, port = given.rpartition(":")
        return f"{host}:{int(port) + offset}" if port.isdecimal() and int(port) > 0 else given

    def _own(self) -> None:
        try:
            self._lock.acquire()
        except FineryError as error:
            message = f"`finery up` runs already: it is process {error.metadata['pid']}. {_INSTEAD}"
            raise FineryError(Reason.ALREADY_RUNNING, message) from error

    def _refuse_announced(self) -> None:
        """Refuse services that live without a supervisor: of one that was killed, or started by hand."""
        for service in PORTS:
            entry = announced(self._machine.home.announcement(service))
            if entry is not None:
                raise FineryError(
                    Reason.ALREADY_RUNNING,
                    f"`finery up` runs already: the {service} is process {entry.pid} at {entry.address}. {_INSTEAD}",
                )


def _announcement_name(member: Member) -> str:
    return member.service if member.instance in (None, "0") else f"{member.service}-{member.instance}"
