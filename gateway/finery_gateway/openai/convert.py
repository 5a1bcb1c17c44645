"""OpenAI's requests as protos."""

from __future__ import annotations

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai.convert_chat import to_chat, to_tokenized_chat
from finery_gateway.openai.schemas import ChatCompletionRequest, CompletionRequest, SamplingRequest, TokenizeRequest
from finery_gateway.openai.shape import to_structured

_FINISH = {
    pb.FINISH_REASON_STOP: "stop",
    pb.FINISH_REASON_LENGTH: "length",
    pb.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


def to_generate(request: ChatCompletionRequest) -> pb.GenerateRequest:
    """A chat completion as a Generate request; what the client left out stays unset."""
    logprobs = request.top_logprobs or 0 if request.logprobs else None
    sampling = _to_sampling(request, request.max_completion_tokens or request.max_tokens, logprobs)
    return pb.GenerateRequest(model=request.model, chat=to_chat(request), sampling=sampling)


def to_generates(request: CompletionRequest) -> list[pb.GenerateRequest]:
    """A completion as Generate requests, one a prompt."""
    sampling = _to_sampling(request, request.max_tokens, request.logprobs)
    made = []
    for prompt in request.prompts:
        wish = pb.GenerateRequest(model=request.model, sampling=sampling)
        if isinstance(prompt, str):
            wish.text.text = prompt
        else:
            wish.token_ids.token_ids.extend(prompt)
        made.append(wish)
    return made


def to_tokenize(request: TokenizeRequest) -> pb.TokenizeRequest:
    """What is to be tokenized."""
    if request.messages is not None:
        return pb.TokenizeRequest(model=request.model, chat=to_tokenized_chat(request))
    return pb.TokenizeRequest(model=request.model, text=pb.TextPrompt(text=request.prompt or ""))


def _to_sampling(request: SamplingRequest, max_tokens: int | None, logprobs: int | None) -> pb.SamplingParams:
    return pb.SamplingParams(
        max_tokens=max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        # vLLM's API writes -1 for all tokens, the proto 0.
        top_k=None if request.top_k is None else max(request.top_k, 0),
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop=request.stop or [],
        stop_token_ids=request.stop_token_ids or [],
        n=request.n,
        ignore_eos=request.ignore_eos,
        logit_bias={int(token): bias for token, bias in (request.logit_bias or {}).items()},
        logprobs=logprobs,
        min_tokens=request.min_tokens,
        structured_output=to_structured(request.response_format, request.structured_outputs),
    )


def finish_reason(reason: pb.FinishReason.ValueType) -> str:
    """OpenAI's word for why an answer ended."""
    return _FINISH.get(reason, "stop")


def usage(used: pb.Usage) -> dict[str, object]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }
