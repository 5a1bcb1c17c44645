"""Tool calls as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Iterable

from finery.inference.v1 import inference_pb2 as pb


def tool_call_delta(call: pb.ToolCallDelta) -> dict[str, object]:
    """What a stream says of a call: id, type and name in its first delta alone."""
    if not call.name:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


class ToolCalls:
    """The calls of one answer, put together."""

    def __init__(self) -> None:
        self._first: dict[int, pb.ToolCallDelta] = {}
        self._arguments: dict[int, list[str]] = {}

    def add(self, deltas: Iterable[pb.ToolCallDelta]) -> None:
        """Take deltas in."""
        for delta in deltas:
            self._first.setdefault(delta.index, delta)
            self._arguments.setdefault(delta.index, []).append(delta.arguments)

    def whole(self) -> list[dict[str, object]]:
        """As they stand in a message."""
        return [
            {
                "id": first.id,
                "type": "function",
                "function": {"name": first.name, "arguments": "".join(self._arguments[index])},
            }
            for index, first in sorted(self._first.items())
        ]
