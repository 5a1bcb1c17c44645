"""Sampling: what the caller said, what the model says, and what is possible at all."""

from __future__ import annotations

from finery_inference.engines.protocol import Sampling
from finery_inference.generation.loaded import LoadedModel
from finery_inference.generation.request import SamplingRequest
from finery_shared.errors import invalid

MOST_ANSWERS = 128


def check(request: SamplingRequest) -> None:
    """Raise INVALID_ARGUMENT naming the first field that is out of its range."""
    ranges = (
        ("max_tokens", request.max_tokens, 1, None),
        ("temperature", request.temperature, 0, 2),
        ("min_p", request.min_p, 0, 1),
        ("presence_penalty", request.presence_penalty, -2, 2),
        ("frequency_penalty", request.frequency_penalty, -2, 2),
        ("n", request.n, 1, MOST_ANSWERS),
    )
    for name, value, least, most in ranges:
        # "not <=" rather than ">": NaN is in no range.
        if value is not None and not (least <= value and (most is None or value <= most)):
            raise invalid(
                name, f"{value} is not {f'from {least} to {most}' if most is not None else f'{least} or more'}."
            )
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise invalid("top_p", f"{request.top_p} is not above 0 and at most 1.")
    if request.repetition_penalty is not None and not 0 < request.repetition_penalty < float("inf"):
        raise invalid("repetition_penalty", f"{request.repetition_penalty} is not above 0.")
    if any(not stop for stop in request.stop):
        raise invalid("stop", "a stop text must not be empty.")


def fill_in(request: SamplingRequest, model: LoadedModel, max_tokens: int) -> Sampling:
    """The sampling of a checked request: the caller's values, else the model's, else vLLM's.

    Raises INVALID_ARGUMENT for several answers without randomness: they would be the same.
    """
    defaults = model.defaults

    def value(name: str, otherwise: float) -> float:
        said = getattr(request, name)
        return float(said if said is not None else defaults.get(name, otherwise))

    n, temperature, ignore_eos = request.n or 1, value("temperature", 1.0), bool(request.ignore_eos)
    if n > 1 and temperature == 0:
        raise invalid("n", "several answers at temperature 0 would be the same; set a temperature above 0, or n 1.")
    ends = () if ignore_eos else model.stop_token_ids
    return Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=value("top_p", 1.0),
        top_k=int(value("top_k", 0)),
        min_p=value("min_p", 0.0),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=value("repetition_penalty", 1.0),
        seed=request.seed,
        stop=request.stop,
        stop_token_ids=tuple(dict.fromkeys((*request.stop_token_ids, *ends))),
        n=n,
        ignore_eos=ignore_eos,
        structured=request.structured,
    )
