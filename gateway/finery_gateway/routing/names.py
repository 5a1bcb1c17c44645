"""Addresses of inference processes, with names looked up again and again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

DNS = "dns:///"


class Addresses:
    """HOST:PORT as they are; each dns:///HOST:PORT is every address that the name has at the moment."""

    def __init__(self, given: Sequence[str]) -> None:
        self._fixed = [a for a in given if not a.startswith(DNS)]
        self._names = [a.removeprefix(DNS) for a in given if a.startswith(DNS)]
        self._last: dict[str, list[str]] = {}

    @property
    def may_change(self) -> bool:
        """Whether looking again can find others."""
        return bool(self._names)

    @property
    def given(self) -> list[str]:
        """What was configured, for messages."""
        return [*self._fixed, *self._names]

    async def look_up(self) -> list[str]:
        """The addresses now. A name that can't be resolved keeps those it had."""
        for name in self._names:
            self._last[name] = await _resolve(name) or self._last.get(name, [])
        found = [address for addresses in self._last.values() for address in addresses]
        return list(dict.fromkeys([*self._fixed, *found]))


async def _resolve(name: str) -> list[str]:
    host, _, port = name.rpartition(":")
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [f"[{info[4][0]}]:{port}" if info[0] == socket.AF_INET6 else f"{info[4][0]}:{port}" for info in infos]
