"""What is made in a thread and can't be interrupted."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from finery_inference.engines.threads import made_in_daemon_thread


def held(go_on: threading.Event, failure: Exception | None = None) -> Callable[[], str]:
    """Makes something, or fails, when it is told to."""

    def make() -> str:
        assert go_on.wait(10)
        if failure is not None:
            raise failure
        return "made"

    return make


async def cancelled(making: "asyncio.Task[str]") -> None:
    await asyncio.sleep(0.02)
    making.cancel()
    await asyncio.sleep(0.02)


async def test_what_is_made_arrives() -> None:
    undone: list[str] = []
    go_on = threading.Event()
    go_on.set()
    assert await made_in_daemon_thread(held(go_on), undone.append, "test") == "made"
    with pytest.raises(OSError, match="full"):
        await made_in_daemon_thread(held(go_on, OSError("full")), undone.append, "test")
    assert not undone


@pytest.mark.parametrize(("failure", "expected"), [(None, ["made"]), (OSError("full"), [])])
async def test_a_cancelled_call_ends_when_it_is_undone(failure: Exception | None, expected: list[str]) -> None:
    undone: list[str] = []
    go_on = threading.Event()
    making = asyncio.create_task(made_in_daemon_thread(held(go_on, failure), undone.append, "test"))
    await cancelled(making)
    assert not making.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await making
    assert undone == expected


async def test_a_call_that_is_cancelled_again_ends_at_once() -> None:
    go_on = threading.Event()
    making = asyncio.create_task(made_in_daemon_thread(held(go_on), print, "test"))
    await cancelled(making)
    await cancelled(making)
    assert making.cancelled()
    go_on.set()
