"""Which services there are: those named in the environment, else those that run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finery_client.local import Machine, label
from finery_shared.errors import FineryError
from finery_shared.home import Announcement, announced
from finery_shared.rpc.channel import OPEN
from finery_shared.rpc.security import RpcSecurity


def _no_death() -> FineryError | None:
    return None


@dataclass(frozen=True)
class Endpoint:
    """A service to talk to. ``private``: this command started it and will stop it."""

    service: str
    address: str
    private: bool = False
    security: RpcSecurity = OPEN
    """What its callers show, and how they check it."""
    death: Callable[[], FineryError | None] = field(default=_no_death, compare=False)
    """Why the process is known to have ended; None while it lives, or is another command's."""

    @property
    def target(self) -> str:
        """The service as messages name it."""
        return f"The {label(self.service)} at {self.address}"


class Directory:
    """Finds services that others run."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._security = RpcSecurity.from_env(machine.env)

    def named(self, service: str) -> tuple[Endpoint, ...]:
        """Those that FINERY_<SERVICE> names: HOST:PORT, separated by commas; the gateway's may be a URL."""
        value = self._machine.env.get(f"FINERY_{service.upper()}", "")
        return tuple(self._at(service, part.strip()) for part in value.split(",") if part.strip())

    def announced(self, service: str) -> tuple[Endpoint, ...]:
        """Those that `finery up` announced and that live, in the order of their instances."""
        return tuple(
            self._at(service, entry.address) for entry in self._live(self._machine.home.service("run"), service)
        )

    def find(self, service: str) -> tuple[Endpoint, ...]:
        """The named ones, else the announced ones, else none."""
        return self.named(service) or self.announced(service)

    def find_any(self, service: str) -> tuple[Endpoint, ...]:
        """As `find`, else those that another command of this user runs for itself."""
        return self.find(service) or tuple(self._at(service, entry.address) for entry in self.private(service))

    def private(self, service: str) -> tuple[Announcement, ...]:
        """The processes that commands of this user run for themselves."""
        directories = sorted(self._machine.home.service("run").glob("private-*"))
        return tuple(entry for directory in directories for entry in self._live(directory, service))

    def _at(self, service: str, address: str) -> Endpoint:
        return Endpoint(service, address, security=self._security)

    @staticmethod
    def _live(directory: Path, service: str) -> Iterator[Announcement]:
        files = [directory / f"{service}.json", *sorted(directory.glob(f"{service}-*.json"), key=_instance)]
        for path in files:
            entry = announced(path)
            if entry is not None:
                yield entry


def _instance(path: Path) -> tuple[int, str]:
    name = path.stem.partition("-")[2]
    return (int(name) if name.isdecimal() else 2**31, name)


def base_url(address: str) -> str:
    """The OpenAI base URL of a gateway's address, which may be HOST:PORT, a URL, or a URL with /v1."""
    url = address if "://" in address else f"http://{address}"
    url = url.rstrip("/")
    return url if url.endswith("/v1") else f"{url}/v1"
