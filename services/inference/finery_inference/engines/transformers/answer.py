"""One answer under way: the tokens it has, its text, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass, field

from finery_inference.engines.protocol import Delta, EngineRequest, Finish, Position
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

    @property
    def may_end(self) -> bool:
        """Whether it is long enough to end by itself."""
        return len(self.tokens) >= self.request.sampling.min_tokens

    def take(self, token: int, position: Position | None = None) -> Delta:
        """Note a token that was chosen, and how likely it was if that is to be told."""
        sampling = self.request.sampling
        self.tokens.append(token)
        # The token that ends an answer is counted, but is not part of its text.
        ends = token in sampling.stop_token_ids
        text = "" if ends else self.text.add(token, ends=len(self.tokens) > sampling.min_tokens)
        if ends or self.text.stopped:
            self.finish = "stop"
        elif len(self.tokens) >= sampling.max_tokens:
            self.finish = "length"
        if self.finish is not None:
            text += self.text.rest()
        return Delta(self.index, text, [token], self.finish, logprobs=[position] if position else ())
