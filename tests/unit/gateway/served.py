"""A gateway on a loopback port, in a thread, for tests that hypothesis runs many times."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from finery_gateway.bootstrap import build
from finery_gateway.settings import Settings
from tests.fakes.inference_service import FakeInference


@contextmanager
def served(make: Callable[[], FakeInference] = FakeInference, **settings: object) -> Iterator[str]:
    """The base URL of a gateway before a fake inference process."""
    started: Future[tuple[str, asyncio.Event, asyncio.AbstractEventLoop]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        fake = make()
        await fake.start()
        process = build(Settings(listen="127.0.0.1:0", drain_seconds=1, inference=(fake.address,), **settings))
        try:
            started.set_result((await process.start(), stop, asyncio.get_running_loop()))
            await stop.wait()
        finally:
            await process.stop()
            await fake.stop()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # whatever it is, the test shall not wait for a gateway that never comes
            if not started.done():
                started.set_exception(error)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        address, stop, loop = started.result(30)
        yield f"http://{address}"
        loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join(30)
