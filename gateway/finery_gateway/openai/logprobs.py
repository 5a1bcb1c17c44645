"""Log-probabilities as OpenAI's two APIs write them."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from finery.inference.v1 import inference_pb2 as pb


def chat_logprobs(positions: Iterable[pb.PositionLogprobs]) -> dict[str, object]:
    """A chat completion's ``logprobs``. Bytes that are no text by themselves stand escaped in ``token``."""
    content = [{**_token(each.chosen), "top_logprobs": [_token(other) for other in each.top]} for each in positions]
    return {"content": content, "refusal": None}


def _token(token: pb.TokenLogprob) -> dict[str, object]:
    text = token.token.decode(errors="backslashreplace")
    return {"token": text, "logprob": token.logprob, "bytes": list(token.token)}


class TextLogprobs:
    """A plain completion's ``logprobs``, piece by piece; offsets count the answer's characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def told(self, positions: Iterable[pb.PositionLogprobs]) -> dict[str, object]:
        """What follows on the pieces before. The chosen token is among the ``top_logprobs`` in any case."""
        tokens, logprobs, top, offsets = [], [], [], []
        for each in positions:
            tokens.append(_name(each.chosen.token))
            logprobs.append(each.chosen.logprob)
            top.append({_name(other.token): other.logprob for other in (*each.top, each.chosen)})
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(each.chosen.token))
        return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": top, "text_offset": offsets}


def _name(token: bytes) -> str:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
