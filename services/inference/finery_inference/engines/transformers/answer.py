"""One answer under way: the tokens it has, its text, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from finery_inference.engines.protocol import Delta, EngineRequest, Finish
from finery_inference.engines.transformers.text import TextStream


@dataclass
class Answer:
    """The answer of that index to a request."""

    request: EngineRequest
    index: int
    text: TextStream
    tokens: list[int] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def name(self) -> str:
        """Tells it from every other answer of the engine."""
        return f"{self.request.request_id}/{self.index}"

    def take(self, token: int) -> Delta:
        """Note a token that was chosen."""
        sampling = self.request.sampling
        self.tokens.append(token)
        # The token that ends an answer is counted, but is not part of its text.
        ends = token in sampling.stop_token_ids
        text = "" if ends else self.text.add(token)
        if ends or self.text.stopped:
            self.finish = "stop"
        elif len(self.tokens) >= sampling.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            text += self.text.rest()
        return Delta(self.index, text, [token], self.finish)
