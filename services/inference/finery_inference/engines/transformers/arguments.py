"""What a deployment on this engine may ask for; everything else is refused, with what to do instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from pydantic import JsonValue

from finery_inference.engines.errors import shape_refused
from finery_inference.engines.protocol import EngineConfig, EngineRequest
from finery_shared.errors import FineryError, Reason, invalid

ATTENTION = ("sdpa", "eager", "flash_attention_2")


def _is_count(value: JsonValue) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


TUNING: Mapping[str, tuple[Callable[[JsonValue], bool], str]] = {
    "attn_implementation": (lambda value: value in ATTENTION, f"one of: {', '.join(ATTENTION)}"),
    "enable_prefix_caching": (lambda value: isinstance(value, bool), "true or false"),
    "max_num_batched_tokens": (_is_count, "a number, 1 or more"),
    "max_num_seqs": (_is_count, "a number, 1 or more"),
}
"""All engine arguments there are, what each may be, and that in words. Those that vLLM has too mean the same."""


SAMPLING = frozenset(
    {
        *("max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "seed", "stop", "stop_token_ids", "n", "ignore_eos"),
        *("logit_bias", "logprobs", "min_tokens"),
    }
)
"""What `choice` and `answer` know of sampling; whatever else is asked for is refused rather than left out."""


def check_request(request: EngineRequest) -> None:
    """Refuse sampling that this engine has not, by name: INVALID_ARGUMENT."""
    if request.sampling.structured is not None:
        why = "the transformers engine can't hold a model to a shape; deploy the model with --infer_backend vllm"
        raise shape_refused(request.sampling.structured, why)
    for field in fields(request.sampling):
        if field.name not in SAMPLING and getattr(request.sampling, field.name) != _default(field):
            raise invalid(
                field.name,
                "the transformers engine can't do that; leave it out, or deploy the model with --infer_backend vllm.",
            )


def check_tuning(arguments: Mapping[str, JsonValue]) -> None:
    """Refuse engine arguments by name: INVALID_ARGUMENT."""
    for name, value in arguments.items():
        if name not in TUNING:
            known = ", ".join(sorted(TUNING))
            raise invalid(
                "engine_args",
                f"{name} can't be set on the transformers engine; leave it out, or deploy with --infer_backend vllm. "
                f"What can be: {known}.",
            )
        fits, words = TUNING[name]
        if not fits(value):
            raise invalid("engine_args", f"{name} must be {words}.")


def check_model(config: EngineConfig) -> None:
    """Refuse what this engine can't do, before anything is loaded: INVALID_ARGUMENT, UNSUPPORTED."""
    if config.tensor_parallel_size > 1:
        message = "the transformers engine takes one GPU; deploy with --infer_backend vllm to split a model over more."
        raise invalid("tensor_parallel_size", message)
    try:
        described = json.loads((config.model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{config.model} has no config.json that can be read: check the path."
        raise FineryError(Reason.ENGINE_FAILED, message, detail=str(error)) from error
    if described.get("quantization_config"):
        raise FineryError(
            Reason.UNSUPPORTED,
            f"{config.model} is quantized, which the transformers engine can't load. Deploy it with --infer_backend "
            "vllm, or deploy the merged model that it was made from.",
        )


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
