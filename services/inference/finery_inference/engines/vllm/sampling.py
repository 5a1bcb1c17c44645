"""From Finery's sampling to vLLM's, and from what vLLM refuses of it to errors for users."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from finery_inference.engines.errors import shape_refused
from finery_inference.engines.protocol import Sampling, Structured
from finery_shared.errors import FineryError, invalid

_SHAPES: dict[str, Callable[[Any], StructuredOutputsParams]] = {
    "json_schema": lambda schema: StructuredOutputsParams(json=schema),
    "json_object": lambda _: StructuredOutputsParams(json_object=True),
    "regex": lambda expression: StructuredOutputsParams(regex=expression),
    "choices": lambda texts: StructuredOutputsParams(choice=list(texts)),
    "structural_tag": lambda tag: StructuredOutputsParams(structural_tag=tag),
}
_SOURCE = re.compile(r"\[[\d:]+\] /\S+: ")
"""Where in its own sources xgrammar found something wrong."""


def vllm_sampling(sampling: Sampling) -> SamplingParams:
    """The parameters of a request that streams. Raises what vLLM raises for what it refuses."""
    structured = sampling.structured
    return SamplingParams(
        n=sampling.n,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        repetition_penalty=sampling.repetition_penalty,
        seed=sampling.seed,
        stop=list(sampling.stop),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        min_tokens=sampling.min_tokens,
        logit_bias=dict(sampling.logit_bias) or None,
        logprobs=sampling.logprobs,
        structured_outputs=_SHAPES[structured.kind](structured.value) if structured else None,
        output_kind=RequestOutputKind.DELTA,
    )


def refused(error: Exception, structured: Structured | None) -> FineryError:
    """What it means that vLLM refuses a request."""
    field = getattr(error, "parameter", None)
    if structured is not None and field is None:
        why = " ".join(_SOURCE.sub("", str(error)).split())
        return shape_refused(structured, f"the engine can't enforce it: {why[:500]}")
    return invalid(field or "sampling", str(error.args[0]) if error.args else type(error).__name__)
