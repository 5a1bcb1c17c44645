"""What the fake engine says."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Sequence
from itertools import count, islice

from finery_inference.engines.fake_shapes import smallest
from finery_inference.engines.fake_tokenizer import END_OF_TEXT, END_OF_TURN, FakeTokenizer
from finery_inference.engines.protocol import Candidate, Delta, EngineRequest, Finish, Position

MOST_BIAS = 100
"""A token with this bias is always chosen, one with its negative never."""

_SENTENCE = "The quick brown fox jumps over the lazy dog. "


class FakeAnswer:
    """One answer, whole: so many letters of a sentence, or the smallest text of a shape. A token is a byte.

    With ``answer_tokens`` None it is the last user's message.
    """

    def __init__(self, request: EngineRequest, index: int, answer_tokens: int | None) -> None:
        self._index = index
        self._told = 0
        self._logprobs = request.sampling.logprobs
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self.tokens, self._text, self._finish = _answer(request, index, answer_tokens)

    def delta(self, start: int, end: int) -> Delta | None:
        """The tokens from ``start`` to ``end``; None when the answer has ended before.

        A character is told with the last of its bytes, a stop text never.
        """
        if start >= len(self.tokens):
            return None
        tokens = self.tokens[start:end]
        text = self._decoder.decode(_bytes(tokens))
        text, self._told = self._text[self._told : self._told + len(text)], self._told + len(text)
        finish = self._finish if end >= len(self.tokens) else None
        logprobs = [_position(token, self._logprobs) for token in tokens] if self._logprobs is not None else ()
        return Delta(self._index, text, tokens, finish, logprobs=logprobs)


def _bytes(tokens: Sequence[int]) -> bytes:
    return bytes(token for token in tokens if token < END_OF_TEXT)


def _position(token: int, most: int) -> Position:
    """The chosen token is the likeliest, and each of the next bytes half as likely as the one before."""
    top = [Candidate((token + at) % END_OF_TEXT if at else token, (at + 1) * math.log(0.5)) for at in range(most)]
    return Position(Candidate(token, math.log(0.5)), top)


def _answer(request: EngineRequest, index: int, answer_tokens: int | None) -> tuple[list[int], str, Finish]:
    """Tokens and text of one answer, and why it ended."""
    sampling = request.sampling
    stops = [stop.encode() for stop in sampling.stop]
    tokens: list[int] = []
    said = bytearray()
    for token in _spoken(request, index, answer_tokens):
        tokens.append(token)
        if token == END_OF_TURN:
            return tokens, said.decode(), "stop"
        said.append(token)
        if len(tokens) > sampling.min_tokens:
            found = next((stop for stop in stops if said.endswith(stop)), None)
            if found is not None:
                return tokens, said.removesuffix(found).decode(), "stop"
            if token in sampling.stop_token_ids:
                return tokens, said.decode(errors="ignore"), "stop"
        if len(tokens) == sampling.max_tokens:
            return tokens, said.decode(errors="ignore"), "length"
    raise AssertionError("what is spoken never ends without an end of turn")


def _spoken(request: EngineRequest, index: int, answer_tokens: int | None) -> Iterator[int]:
    """The tokens that would be answered if nothing else ended them."""
    sampling = request.sampling
    if sampling.structured is not None:
        yield from smallest(sampling.structured).encode()
    elif answer_tokens is None:
        yield from _last_of_user(request)
    else:
        letters = _letters(request, index)
        yield from letters if sampling.ignore_eos else islice(letters, max(answer_tokens, sampling.min_tokens))
    yield END_OF_TURN


def _last_of_user(request: EngineRequest) -> bytes:
    prompt = FakeTokenizer().decode(request.token_ids, skip_special_tokens=False)
    return prompt.rpartition("<|im_start|>user\n")[2].partition("<|im_end|>")[0].encode()


def _letters(request: EngineRequest, index: int) -> Iterator[int]:
    sampling = request.sampling
    choice = 0 if sampling.temperature == 0 else index + (sampling.seed or 0)
    forced = [token for token, bias in sampling.logit_bias.items() if bias == MOST_BIAS]
    letters = [ord(letter) for letter in _SENTENCE if sampling.logit_bias.get(ord(letter), 0) > -MOST_BIAS]
    said = forced[:1] or letters
    tuned = 0 if request.adapter is None else request.adapter.number
    for at in count(sum(request.token_ids) + choice + tuned):
        yield said[at % len(said)]
