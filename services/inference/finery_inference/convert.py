"""Proto to domain and back. What is wrong in a message is refused here, naming the field."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any, TypeVar

from finery.inference.v1 import deployments_pb2 as dpb
from finery.inference.v1 import inference_pb2 as ipb
from finery_inference.convert_chat import chat_input
from finery_inference.convert_json import json_value
from finery_inference.deployments.model import (
    MODEL_ID,
    Adapter,
    AdapterSpec,
    Deployment,
    DeploymentSpec,
    Snapshot,
    State,
)
from finery_inference.engines.protocol import HIGHEST_RANK, MOST_ADAPTERS, EngineStats, Structured
from finery_inference.generation.request import (
    Chunk,
    Complete,
    GenerationRequest,
    PromptInput,
    SamplingRequest,
    TextInput,
    TokenIdsInput,
    TokenLogprob,
)
from finery_shared.errors import FineryError, Reason, invalid

T = TypeVar("T", Deployment, Adapter)
M = TypeVar("M", dpb.Deployment, dpb.Adapter)

_STATES = {
    State.LOADING: dpb.DEPLOYMENT_STATE_LOADING,
    State.READY: dpb.DEPLOYMENT_STATE_READY,
    State.UNLOADING: dpb.DEPLOYMENT_STATE_UNLOADING,
    State.FAILED: dpb.DEPLOYMENT_STATE_FAILED,
}
_FINISHES = {
    "stop": ipb.FINISH_REASON_STOP,
    "length": ipb.FINISH_REASON_LENGTH,
    "tool_calls": ipb.FINISH_REASON_TOOL_CALLS,
}
_BACKENDS = {"": "vllm", "pt": "transformers"}
"""What other names of engines mean."""
_DTYPES = ("auto", "bfloat16", "float16", "float32")


def deployment_spec(message: dpb.DeploymentSpec) -> DeploymentSpec:
    """Raises INVALID_ARGUMENT."""
    named = message.model.model_type or message.model.model_id_or_path
    if not message.ckpt_dir and not named:
        raise invalid("spec", "say what to load: ckpt_dir, or model with model_type or model_id_or_path.")
    if message.dtype and message.dtype not in _DTYPES:
        raise invalid("dtype", f"{message.dtype!r} is not one of: {', '.join(_DTYPES)}.")
    memory = message.gpu_memory_utilization if message.HasField("gpu_memory_utilization") else None
    if memory is not None and not 0 < memory <= 1:
        raise invalid("gpu_memory_utilization", f"{memory} is not above 0 and at most 1.")
    return DeploymentSpec(
        ckpt_dir=message.ckpt_dir,
        model_type=message.model.model_type,
        model_id_or_path=message.model.model_id_or_path,
        served_model_name=_model_id(message.served_model_name),
        infer_backend=_BACKENDS.get(message.infer_backend, message.infer_backend),
        max_model_len=_natural(message, "max_model_len"),
        dtype=message.dtype or "auto",
        gpu_memory_utilization=memory,
        tensor_parallel_size=_natural(message, "tensor_parallel_size"),
        engine_args={
            key: json_value("engine_args", value, f"the value of {key}, {value[:100]!r},")
            for key, value in sorted(message.engine_args.items())
        },
        **_lora(message),
    )


def adapter_spec(message: dpb.AdapterSpec) -> AdapterSpec:
    """Raises INVALID_ARGUMENT."""
    if not message.ckpt_dir:
        raise invalid("ckpt_dir", "say which adapter to load: the absolute path of its directory.")
    return AdapterSpec(ckpt_dir=message.ckpt_dir, served_model_name=_model_id(message.served_model_name))


def request_id(text: str) -> str:
    """A caller's request id in its canonical form; empty stays empty. Raises INVALID_ARGUMENT."""
    if not text:
        return ""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid("request_id", f"{text!r} is not a UUID.") from None


def deployment_message(deployment: Deployment) -> dpb.Deployment:
    """A deployment as callers see it."""
    record = deployment.record
    message = dpb.Deployment(
        name=record.name,
        spec=_spec_message(record.spec),
        model_id=record.model_id,
        model_type=record.model_type,
        state=_STATES[deployment.state],
        max_model_len=deployment.max_model_len,
    )
    message.adapters.extend(adapter_message(adapter) for adapter in deployment.adapters)
    return _told(message, deployment)


def adapter_message(adapter: Adapter) -> dpb.Adapter:
    """An adapter as callers see it."""
    record = adapter.record
    spec = dpb.AdapterSpec(ckpt_dir=record.spec.ckpt_dir, served_model_name=record.spec.served_model_name)
    message = dpb.Adapter(name=record.name, spec=spec, model_id=record.model_id, state=_STATES[adapter.state])
    return _told(message, adapter)


def snapshot_message(snapshot: Snapshot) -> dpb.WatchDeploymentsResponse:
    """All deployments."""
    deployments = [deployment_message(deployment) for deployment in snapshot.deployments]
    return dpb.WatchDeploymentsResponse(revision=snapshot.revision, deployments=deployments, draining=snapshot.draining)


def stats_message(stats: EngineStats) -> dpb.GetDeploymentStatsResponse:
    """An engine's own figures."""
    return dpb.GetDeploymentStatsResponse(
        running_requests=stats.running,
        waiting_requests=stats.waiting,
        kv_cache_usage=stats.kv_cache_usage,
        generated_tokens=stats.generated_tokens,
    )


def page(items: tuple[T, ...], page_size: int, page_token: str) -> tuple[tuple[T, ...], str]:
    """One page, oldest first, and the token of the next; raises PAGE_TOKEN_INVALID."""
    if page_token and not (re.fullmatch("[0-9]{1,18}", page_token)):
        raise FineryError(Reason.PAGE_TOKEN_INVALID, f"page_token {page_token!r} was not given out; leave it empty.")
    after, size = int(page_token or 0), min(page_size or 50, 1000)
    rest = [item for item in items if item.record.ordinal > after]
    return tuple(rest[:size]), str(rest[size - 1].record.ordinal) if len(rest) > size else ""


def prompt(message: ipb.GenerateRequest | ipb.TokenizeRequest) -> PromptInput:
    """Raises INVALID_ARGUMENT."""
    kind = message.WhichOneof("prompt")
    if kind == "chat":
        return chat_input(message.chat)
    if kind == "text":
        return TextInput(message.text.text)
    if kind == "token_ids" and isinstance(message, ipb.GenerateRequest):
        return TokenIdsInput(tuple(message.token_ids.token_ids))
    raise invalid("prompt", "there is none; set chat, text or token_ids.")


def generation_request(message: ipb.GenerateRequest) -> GenerationRequest:
    """Raises INVALID_ARGUMENT."""
    return GenerationRequest(message.model, prompt(message), _sampling(message.sampling))


def generate_response(event: Chunk | Complete) -> ipb.GenerateResponse:
    """One message of the stream."""
    if isinstance(event, Chunk):
        chunk = ipb.GenerateChunk(
            index=event.index, text=event.text, token_ids=event.token_ids, completion_tokens=event.completion_tokens
        )
        for position in event.logprobs:
            chunk.logprobs.add(chosen=_logprob(position.chosen), top=[_logprob(each) for each in position.top])
        for call in event.tool_calls:
            chunk.tool_calls.add(index=call.index, id=call.id, name=call.name, arguments=call.arguments)
        return ipb.GenerateResponse(chunk=chunk)
    finishes = [
        ipb.ChoiceFinish(index=index, finish_reason=_FINISHES[finish]) for index, finish in enumerate(event.finishes)
    ]
    usage = ipb.Usage(
        prompt_tokens=event.prompt_tokens,
        completion_tokens=event.completion_tokens,
        cached_tokens=event.cached_tokens,
    )
    return ipb.GenerateResponse(complete=ipb.GenerateComplete(finishes=finishes, usage=usage))


def _logprob(token: TokenLogprob) -> ipb.TokenLogprob:
    return ipb.TokenLogprob(token_id=token.token_id, token=token.token, logprob=token.logprob)


def _sampling(message: ipb.SamplingParams) -> SamplingRequest:
    scalars = {
        field.name: getattr(message, field.name)
        for field, _ in message.ListFields()
        if field.name not in ("stop", "stop_token_ids", "structured_output", "logit_bias")
    }
    return SamplingRequest(
        **scalars,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        logit_bias=dict(message.logit_bias),
        structured=_structured(message.structured_output) if message.HasField("structured_output") else None,
    )


def _structured(message: ipb.StructuredOutput) -> Structured:
    shape = message.WhichOneof("shape")
    if shape == "json_schema":
        return Structured("json_schema", message.json_schema)
    if shape == "regex":
        return Structured("regex", message.regex)
    if shape == "choices":
        return Structured("choices", tuple(message.choices.texts))
    if shape == "json_object" and message.json_object:
        return Structured("json_object")
    raise invalid("structured_output", "it has no shape; set json_schema, json_object (to true), regex or choices.")


def _spec_message(spec: DeploymentSpec) -> dpb.DeploymentSpec:
    message = dpb.DeploymentSpec(
        ckpt_dir=spec.ckpt_dir,
        served_model_name=spec.served_model_name,
        infer_backend=spec.infer_backend,
        max_model_len=spec.max_model_len,
        dtype=spec.dtype,
        gpu_memory_utilization=spec.gpu_memory_utilization,
        tensor_parallel_size=spec.tensor_parallel_size,
        engine_args={key: json.dumps(value) for key, value in spec.engine_args.items()},
    )
    if spec.enable_lora:
        message.enable_lora, message.max_loras, message.max_lora_rank = True, spec.max_loras, spec.max_lora_rank
    if spec.model_type or spec.model_id_or_path:
        message.model.model_type, message.model.model_id_or_path = spec.model_type, spec.model_id_or_path
    return message


def _told(message: M, told: Deployment | Adapter) -> M:
    message.create_time.FromDatetime(told.record.create_time)
    if told.error is not None:
        message.error.reason, message.error.message = str(told.error.reason), told.error.message
    return message


def _model_id(name: str) -> str:
    if name and not MODEL_ID.fullmatch(name):
        raise invalid("served_model_name", f"{name!r} is not 1 to 200 characters without spaces.")
    return name


def _lora(message: dpb.DeploymentSpec) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for field, most in (("max_loras", MOST_ADAPTERS), ("max_lora_rank", HIGHEST_RANK)):
        value = _natural(message, field)
        if value is None:
            continue
        if not message.enable_lora:
            raise invalid(field, "it is for deployments with adapters; set enable_lora too, or leave it out.")
        if value > most:
            raise invalid(field, f"{value} is more than {most}; set at most that.")
        given[field] = value
    return {"enable_lora": message.enable_lora, **given}


def _natural(message: dpb.DeploymentSpec, field: str) -> int | None:
    if not message.HasField(field):  # type: ignore[arg-type]  # the stubs want a literal
        return None
    value: int = getattr(message, field)
    if value < 1:
        raise invalid(field, "it must be 1 or more.")
    return value
