"""Sampling: what the caller said, what the model says, and what is possible at all."""

from __future__ import annotations

from finery_inference.engines.protocol import Sampling
from finery_inference.generation.loaded import LoadedModel
from finery_inference.generation.request import SamplingRequest
from finery_shared.errors import invalid

MOST_ANSWERS = 128
MOST_BIAS = 100
MOST_BIASED = 1024
MOST_LOGPROBS = 20


def check(request: SamplingRequest) -> None:
    """Raise INVALID_ARGUMENT naming the first field that is out of its range."""
    ranges = (
        ("max_tokens", request.max_tokens, 1, None),
        ("temperature", request.temperature, 0, 2),
        ("min_p", request.min_p, 0, 1),
        ("presence_penalty", request.presence_penalty, -2, 2),
        ("frequency_penalty", request.frequency_penalty, -2, 2),
        ("repetition_penalty", request.repetition_penalty, 0.01, 100),
        ("n", request.n, 1, MOST_ANSWERS),
        ("logprobs", request.logprobs, 0, MOST_LOGPROBS),
    )
    for name, value, least, most in ranges:
        # "not <=" rather than ">": NaN is in no range.
        if value is not None and not (least <= value and (most is None or value <= most)):
            raise invalid(
                name, f"{value} is not {f'from {least} to {most}' if most is not None else f'{least} or more'}."
            )
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise invalid("top_p", f"{request.top_p} is not above 0 and at most 1.")
    for token, bias in request.logit_bias.items():
        if not -MOST_BIAS <= bias <= MOST_BIAS:
            raise invalid("logit_bias", f"{bias} of token {token} is not from -{MOST_BIAS} to {MOST_BIAS}.")
    if len(request.logit_bias) > MOST_BIASED:
        raise invalid("logit_bias", f"it has {len(request.logit_bias)} tokens; {MOST_BIASED} is the most.")
    if any(not stop for stop in request.stop):
        raise invalid("stop", "a stop text must not be empty.")


def fill_in(request: SamplingRequest, model: LoadedModel, max_tokens: int) -> Sampling:
    """The sampling of a checked request: the caller's values, else the model's, else vLLM's.

    Raises INVALID_ARGUMENT for tokens that the model does not have, and for more of them than may be generated.
    """
    defaults = model.defaults

    def value(name: str, otherwise: float) -> float:
        said = getattr(request, name)
        return float(said if said is not None else defaults.get(name, otherwise))

    _check_tokens(request, model)
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        raise invalid("min_tokens", f"{min_tokens} is more than the {max_tokens} tokens that may be generated.")
    ignore_eos = bool(request.ignore_eos)
    ends = () if ignore_eos else model.stop_token_ids
    return Sampling(
        max_tokens=max_tokens,
        temperature=value("temperature", 1.0),
        top_p=value("top_p", 1.0),
        top_k=int(value("top_k", 0)),
        min_p=value("min_p", 0.0),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=value("repetition_penalty", 1.0),
        seed=request.seed,
        stop=request.stop,
        stop_token_ids=tuple(dict.fromkeys((*request.stop_token_ids, *ends))),
        n=request.n or 1,
        ignore_eos=ignore_eos,
        structured=request.structured,
        logit_bias=request.logit_bias,
        logprobs=request.logprobs,
        min_tokens=min_tokens,
    )


def _check_tokens(request: SamplingRequest, model: LoadedModel) -> None:
    for name, tokens in (("logit_bias", request.logit_bias), ("stop_token_ids", request.stop_token_ids)):
        largest = max(tokens, default=0)
        if largest >= model.vocab_size:
            raise invalid(name, f"{largest} is beyond the model's {model.vocab_size} tokens.")
