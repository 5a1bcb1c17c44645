"""Prefix affinity: a prompt goes where its beginning was computed last and may be in the engine's prefix cache.

The algorithm is that of cache-aware routing as SGLang's router and the vLLM production stack have it: the longest known
prefix names a backend, and the backend is taken unless it has clearly more to do than the least busy one (SGLang's
absolute and relative balance thresholds). In place of their radix tree and trie there is one bounded table of hashes.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from finery.inference.v1 import inference_pb2
from finery_gateway.routing.backend import Backend


def _boundaries(first: int, last: int, growth: float) -> tuple[int, ...]:
    found = [first]
    while (following := int(found[-1] * growth)) <= last:
        found.append(following)
    return tuple(found)


# Bytes. A prompt of any length has few keys, and two prompts that part have at least four fifths of what they share in
# common keys. Shorter prefixes are not worth a detour, and longer ones tell prompts apart no better.
_BOUNDARIES = _boundaries(256, 16 * 1024, 1.25)
_MESSAGES = 64


def prefix_keys(request: inference_pb2.GenerateRequest) -> list[int]:
    """Hashes of ever longer beginnings of the prompt, the shortest first; none for a short prompt.

    Equal for two requests as far as model, tools' parameters and messages' contents (or text, or token ids) are.
    """
    prompt = _prompt_bytes(request)
    keys = []
    key, start = hash(request.model), 0
    for end in _BOUNDARIES:
        if end > len(prompt):
            break
        key = hash((key, prompt[start:end]))
        keys.append(key)
        start = end
    return keys


def _prompt_bytes(request: inference_pb2.GenerateRequest) -> bytes:
    """The prompt as far as keys reach, and not as it is on the wire: there the lengths stand before the parts."""
    match request.WhichOneof("prompt"):
        case "chat":
            # Templates put the tools first.
            parts = [tool.parameters for tool in request.chat.tools]
            parts += [message.content for message in request.chat.messages[:_MESSAGES]]
            return "\0".join(parts)[: _BOUNDARIES[-1]].encode()
        case "text":
            return request.text.text[: _BOUNDARIES[-1]].encode()
        case _:
            return array("I", request.token_ids.token_ids[: _BOUNDARIES[-1] // 4]).tobytes()


class PrefixAffinity:
    """Which backend had each prefix last, for the ``capacity`` prefixes that were used last."""

    def __init__(self, capacity: int = 65_536, slack: int = 4, imbalance: float = 1.25) -> None:
        self._capacity = capacity
        self._slack = slack
        self._imbalance = imbalance
        self._last: OrderedDict[int, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._last)

    def prefer(self, keys: Sequence[int], ready: Sequence[Backend]) -> Backend | None:
        """The one of the ready backends that had the longest prefix last.

        None when nobody is known to have it, or when that one's work in flight exceeds the least by more than ``slack``
        requests and by more than the factor ``imbalance``.
        """
        for key in reversed(keys):
            if (address := self._last.get(key)) is None:
                continue
            for backend in ready:
                if backend.address == address:
                    least = min(b.in_flight for b in ready)
                    fits = backend.in_flight <= max(least + self._slack, least * self._imbalance)
                    return backend if fits else None
        return None

    def note(self, keys: Sequence[int], backend: Backend) -> None:
        """Remember who gets a prompt with these prefixes."""
        for key in keys:
            self._last[key] = backend.address
            self._last.move_to_end(key)
        while len(self._last) > self._capacity:
            self._last.popitem(last=False)
