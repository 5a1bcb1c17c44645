"""Tells when an engine has ended: its processes are gone, or they are there and get nothing done."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from finery_inference.engines.protocol import InferenceEngine, Vitals

POLL_SECONDS = 0.1
"""How often an engine is looked at."""

COMPUTING_SHARE = 0.1
"""An engine that uses this share of a processor computes; one that waits, for whatever, uses less."""

COMPUTING_PATIENCE = 10
"""How many times longer one step of an engine that computes may take: a long prompt of a large model on a CPU."""


class Pulse:
    """Whether an engine that has something to do gets on with it. ``limit`` is in seconds, 0 for never mind."""

    def __init__(self, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._last = Vitals(0, -1)
        self._since = clock()

    def stopped(self, vitals: Vitals) -> bool:
        """Take in how the engine is now; True once it made no step for too long."""
        now = self._clock()
        if not vitals.waiting or vitals.steps != self._last.steps:
            self._last, self._since = vitals, now
            return False
        silent = now - self._since
        computing = vitals.cpu_seconds - self._last.cpu_seconds > silent * COMPUTING_SHARE
        return 0 < self._limit * (COMPUTING_PATIENCE if computing else 1) < silent


@dataclass(frozen=True)
class Watchdog:
    """Watches engines; each may make no step for ``hung_seconds`` while it has something to do. 0 is for ever."""

    hung_seconds: float = 0.0

    async def until_ended(self, engine: InferenceEngine) -> str:
        """Return why the engine ended, for the log. One that hangs is killed.

        An engine without requests is asked for a sign of life now and then, so that none finds it hung.
        """
        pulse = Pulse(self.hung_seconds)
        asking = asyncio.create_task(self._ask(engine), name="engine check")
        try:
            while engine.alive:
                if pulse.stopped(engine.vitals):
                    engine.kill()
                    return f"the engine has made no step for {self.hung_seconds:g} seconds"
                await asyncio.sleep(POLL_SECONDS)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        return "the engine's process has ended"

    async def _ask(self, engine: InferenceEngine) -> None:
        while self.hung_seconds:
            await engine.check()
            await asyncio.sleep(self.hung_seconds / 2)
