"""Whose cancellation an ``asyncio.CancelledError`` tells of."""

from __future__ import annotations

import asyncio


def is_own() -> bool:
    """Whether the running task itself is being cancelled.

    Otherwise a gRPC call was: grpc.aio raises CancelledError for a call that was cancelled.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
