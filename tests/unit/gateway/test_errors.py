"""Every error is OpenAI's object, with the status and the parameter that belong to it."""

from typing import Any

import httpx
import pytest
from openai import (
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)

from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference, Script
from tests.unit.gateway.conftest import Start

CHAT = "/v1/chat/completions"
GOOD: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert isinstance(body["error"]["message"], str)
    assert isinstance(body["error"]["code"], str)
    assert body["error"]["code"]
    return body["error"]


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


DEEP: Any = []
for _ in range(500):
    DEEP = [DEEP]


def calling(function: Any) -> list[dict[str, Any]]:
    call = {"id": "1", "type": "function", "function": function}
    return [{"role": "assistant", "content": None, "tool_calls": [call]}]


NOW = {"name": "now"}


def tool(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": NOW | changes}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


BAD = [
    ({"messages": "hi"}, "messages", "invalid_type", "expected an array, but got a string"),
    ({"messages": None}, "messages", "invalid_type", "expected an array, but got null"),
    ({"messages": []}, "messages", "invalid_value", "at least 1 item"),
    ({"messages": ["hi"]}, "messages[0]", "invalid_type", "expected an object, but got a string"),
    ({"messages": [{}]}, "messages[0].role", "missing_required_parameter", "messages[0].role"),
    ({"messages": [{"role": "boss", "content": ""}]}, "messages[0].role", "invalid_value", "'boss'. Supported"),
    ({"messages": [{"role": 3, "content": ""}]}, "messages[0].role", "invalid_value", "Invalid value: 3"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter", "messages[0].content"),
    ({"messages": user(5)}, "messages[0].content", "invalid_type", "a string or an array of text parts"),
    ({"messages": user(None)}, "messages[0].content", "invalid_type", "but got null"),
    ({"messages": user([])}, "messages[0].content", "invalid_value", "at least 1 item"),
    ({"messages": user(["hi"])}, "messages[0].content[0]", "invalid_type", "expected an object"),
    ({"messages": user([{"type": "text", "text": 1}])}, "messages[0].content[0].text", "invalid_type", "a string"),
    (
        {"messages": user([{"type": "image_url", "image_url": {"url": "x"}}])},
        "messages[0].content[0].type",
        "invalid_value",
        "'text'",
    ),
    ({"messages": [{"role": "user", "content": "", "x": 1}]}, "messages[0].x", "unknown_parameter", "messages[0].x"),
    (
        {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
        "messages[0].tool_calls[0].id",
        "missing_required_parameter",
        "messages[0].tool_calls[0].id",
    ),
    (
        {"messages": calling({"name": "f"})},
        "messages[0].tool_calls[0].function.arguments",
        "missing_required_parameter",
        "function.arguments",
    ),
    (
        {"messages": calling({"name": "f", "arguments": {}})},
        "messages[0].tool_calls[0].function.arguments",
        "invalid_type",
        "expected a string, but got an object",
    ),
    (
        {"messages": calling({"name": "f", "arguments": "{"})},
        "messages[0].tool_calls[0].function.arguments",
        "invalid_value",
        "a JSON object as text is needed, but got '{'",
    ),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "missing_required_parameter", "messages[0].content"),
    (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
        "messages[0].content",
        "missing_required_parameter",
        "messages[0].content",
    ),
    (
        {"messages": [{"role": "tool", "content": "5"}]},
        "messages[0].tool_call_id",
        "missing_required_parameter",
        "messages[0].tool_call_id",
    ),
    ({"model": 1}, "model", "invalid_type", "expected a string, but got an integer"),
    ({"model": ""}, "model", "invalid_value", "at least 1 character"),
    ({"model": "x" * 1000}, "model", "invalid_value", "at most 256 characters"),
    ({"temperature": "hot"}, "temperature", "invalid_type", "expected a number, but got a string"),
    ({"temperature": "0.5"}, "temperature", "invalid_type", "expected a number, but got a string"),
    ({"temperature": True}, "temperature", "invalid_type", "expected a number, but got a boolean"),
    ({"temperature": 2.5}, "temperature", "invalid_value", "less than or equal to 2, but got 2.5"),
    ({"top_p": 0}, "top_p", "invalid_value", "greater than 0"),
    ({"max_tokens": 0}, "max_tokens", "invalid_value", "greater than or equal to 1"),
    ({"max_tokens": 1.5}, "max_tokens", "invalid_type", "expected an integer, but got a number"),
    ({"max_tokens": 10**30}, "max_tokens", "invalid_type", "expected an integer"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "invalid_value", "at the same time"),
    ({"n": 0}, "n", "invalid_value", "greater than or equal to 1"),
    ({"n": True}, "n", "invalid_type", "expected an integer, but got a boolean"),
    ({"stop": 5}, "stop", "invalid_type", "expected an array"),
    ({"stop": ["a", ""]}, "stop[1]", "invalid_value", "at least 1 character"),
    ({"seed": 2**64}, "seed", "invalid_type", "expected an integer"),
    ({"seed": 2**63}, "seed", "invalid_value", "less than or equal to"),
    ({"stream": "yes"}, "stream", "invalid_type", "expected a boolean"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "when 'stream' is enabled"),
    (
        {"stream": True, "stream_options": {"usage": True}},
        "stream_options.usage",
        "unknown_parameter",
        "stream_options.usage",
    ),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type", "expected a string"),
    ({"top_k": -2}, "top_k", "invalid_value", "greater than or equal to -1"),
    ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value", "greater than 0"),
    ({"frobnicate": 1}, "frobnicate", "unknown_parameter", "Unrecognized request argument supplied: frobnicate"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter", "'tools[0].function'"),
    (
        {"tools": [{"type": "custom", "function": NOW}]},
        "tools[0].type",
        "invalid_value",
        "'function', but got 'custom'",
    ),
    ({"tools": {}}, "tools", "invalid_type", "expected an array, but got an object"),
    ({"tools": [tool(name="a b")]}, "tools[0].function.name", "invalid_value", "pattern"),
    ({"tools": [tool(name="a" * 65)]}, "tools[0].function.name", "invalid_value", "pattern"),
    ({"tools": [tool(), tool()]}, "tools[1].function.name", "invalid_value", "two tools named 'now'"),
    ({"tools": [tool(name=f"f{i}") for i in range(129)]}, "tools", "invalid_value", "at most 128 items"),
    ({"tools": [tool(description=5)]}, "tools[0].function.description", "invalid_type", "expected a string"),
    ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters", "invalid_type", "expected an object"),
    ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters", "invalid_value", "'object'"),
    ({"tools": [tool(strict="yes")]}, "tools[0].function.strict", "invalid_type", "expected a boolean"),
    ({"tools": [tool(examples=[])]}, "tools[0].function.examples", "unknown_parameter", "function.examples"),
    ({"tool_choice": "required"}, "tool_choice", "invalid_value", "only allowed when 'tools' are specified"),
    ({"tools": [tool()], "tool_choice": "any"}, "tool_choice", "invalid_value", "'none', 'auto' or 'required'"),
    ({"tools": [tool()], "tool_choice": 5}, "tool_choice", "invalid_type", "a string or an object, but got an integer"),
    (
        {"tools": [tool()], "tool_choice": named("then{x}")},
        "tool_choice",
        "invalid_value",
        "'then{x}' not found in 'tools'",
    ),
    (
        {"tools": [tool()], "tool_choice": {"type": "function"}},
        "tool_choice.function",
        "missing_required_parameter",
        "'tool_choice.function'",
    ),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type", "expected a boolean"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_type", "expected an object"),
    *(
        ({"chat_template_kwargs": {name: "x"}}, f"chat_template_kwargs.{name}", "invalid_value", "leave it out")
        for name in ("messages", "tools", "add_generation_prompt", "tokenize", "chat_template", "eos_token")
    ),
    ({"logprobs": 0}, "logprobs", "invalid_type", "expected a boolean, but got an integer"),
    ({"top_logprobs": 3}, "top_logprobs", "invalid_value", "when 'logprobs' is enabled"),
    ({"logprobs": False, "top_logprobs": 0}, "top_logprobs", "invalid_value", "when 'logprobs' is enabled"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value", "less than or equal to 20"),
    ({"logit_bias": {"5": 101}}, "logit_bias.5", "invalid_value", "less than or equal to 100"),
    ({"logit_bias": {"5": "a"}}, "logit_bias.5", "invalid_type", "expected a number"),
    ({"logit_bias": {"{five}": 1}}, "logit_bias", "invalid_value", "'{five}'. Keys are token ids"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value", "Keys are token ids"),
    ({"logit_bias": [5]}, "logit_bias", "invalid_type", "expected an object, but got an array"),
    ({"min_tokens": -1}, "min_tokens", "invalid_value", "greater than or equal to 0"),
    ({"n": DEEP}, "n", "invalid_type", "expected an integer, but got an array"),
    ({"messages": [{"role": DEEP}]}, "messages[0].role", "invalid_value", "something deeply nested"),
    ({"tools": [tool(parameters={"x": DEEP})]}, "tools[0].function.parameters", "invalid_value", "nested too deeply"),
    ({"chat_template_kwargs": {"x": DEEP}}, "chat_template_kwargs", "invalid_value", "nested too deeply"),
    ({"functions": [{}]}, "functions", "unsupported_parameter", "'functions'"),
    ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter", "'modalities'"),
    ({"store": True}, "store", "unsupported_parameter", "'store'"),
    ({"service_tier": "flex"}, "service_tier", "unsupported_parameter", "'service_tier'"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter", "'reasoning_effort'"),
    ({"chat_template": "{{ x }}"}, "chat_template", "unsupported_parameter", "'chat_template'"),
]


@pytest.mark.parametrize(("change", "param", "code", "words"), BAD, ids=[str(b[0])[:60] for b in BAD])
async def test_bad_request(
    lone_http: httpx.AsyncClient, change: dict[str, Any], param: str, code: str, words: str
) -> None:
    response = await lone_http.post(CHAT, json=GOOD | change)
    error = error_of(response)
    assert (response.status_code, error["type"]) == (400, "invalid_request_error")
    assert (error["param"], error["code"]) == (param, code)
    assert words in error["message"]


@pytest.mark.parametrize("missing", ["model", "messages"])
async def test_missing_parameter(lone_http: httpx.AsyncClient, missing: str) -> None:
    response = await lone_http.post(CHAT, json={k: v for k, v in GOOD.items() if k != missing})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (400, missing, "missing_required_parameter")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b'{"a": NaN}', b'{"a": "\\ud800"}', b"\xff\xfe", b"[" * 5000, b"[]", b'"x"', b"null"],
)
async def test_what_is_not_a_json_object(lone_http: httpx.AsyncClient, body: bytes) -> None:
    response = await lone_http.post(CHAT, content=body)
    assert response.status_code == 400
    assert error_of(response)["code"] in ("invalid_json", "invalid_type")


EXCEPTIONS = [
    (Reason.INVALID_ARGUMENT, BadRequestError, "invalid_value"),
    (Reason.UNSUPPORTED, BadRequestError, "unsupported_parameter"),
    (Reason.UNAUTHENTICATED, AuthenticationError, "invalid_api_key"),
    (Reason.DEPLOYMENT_NOT_FOUND, NotFoundError, "model_not_found"),
    (Reason.QUEUE_FULL, RateLimitError, "rate_limit_exceeded"),
    (Reason.ENGINE_FAILED, InternalServerError, "engine_failed"),
    (Reason.DEPLOYMENT_NOT_READY, InternalServerError, "model_not_ready"),
    (Reason.DEADLINE_EXCEEDED, InternalServerError, "timeout"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("reason", "exception", "code"), EXCEPTIONS)
async def test_the_openai_client_raises_its_exception(
    client: AsyncOpenAI,
    fake: FakeInference,
    stream: bool,
    reason: Reason,
    exception: type[APIStatusError],
    code: str,
) -> None:
    fake.script = lambda request: Script(failure=FineryError(reason, "What happened."))
    with pytest.raises(exception, match="What happened") as caught:
        await client.chat.completions.create(**GOOD, stream=stream)
    assert caught.value.code == code
    assert caught.value.type
    with pytest.raises(exception) as caught:
        await client.completions.create(model="toy", prompt="x", stream=stream)
    assert caught.value.code == code


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/embeddings", "/v1/chat", "/v1/chat/completions/", "/v1/a/b"])
async def test_a_path_that_is_not_served(lone_http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await lone_http.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize", "/v1/models", "/v1/models/toy", "/health"])
@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_another_method(lone_http: httpx.AsyncClient, method: str, path: str) -> None:
    response = await lone_http.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_supported")
    assert response.headers["allow"] in ("GET", "POST")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/tokenize"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"model": []}'])
async def test_every_body_is_checked(lone_http: httpx.AsyncClient, path: str, body: bytes) -> None:
    response = await lone_http.post(path, content=body)
    assert response.status_code == 400
    assert error_of(response)["type"] == "invalid_request_error"


async def test_paths_and_methods(http: httpx.AsyncClient) -> None:
    for method, path, status, code in [
        ("GET", "/v1/nonsense", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/nonsense", 404, "unknown_url"),
        ("GET", CHAT, 405, "method_not_supported"),
        ("DELETE", "/v1/models", 405, "method_not_supported"),
        ("GET", "/v1/models/absent", 404, "model_not_found"),
        ("GET", "/v1/models/", 404, "model_not_found"),
    ]:
        response = await http.request(method, path)
        assert (response.status_code, error_of(response)["code"]) == (status, code), (method, path)
    assert (await http.get(CHAT)).headers["allow"] == "POST"


async def test_absent_model_lists_what_there_is(http: httpx.AsyncClient) -> None:
    response = await http.post(CHAT, json=GOOD | {"model": "gpt-4"})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (404, "model", "model_not_found")
    assert error["message"] == "The model `gpt-4` does not exist. Available: `toy`."


async def test_body_too_large(start_gateway: Start, fake: FakeInference) -> None:
    url = await start_gateway(fake, body_bytes=1000)

    async def chunks() -> Any:
        for _ in range(4):
            yield b" " * 500

    async with httpx.AsyncClient(base_url=url) as client:
        told = await client.post(CHAT, content=b" " * 1001)
        untold = await client.post(CHAT, content=chunks())
        fits = await client.post(CHAT, json=GOOD)
    assert (told.status_code, error_of(told)["code"]) == (413, "request_too_large")
    assert (untold.status_code, error_of(untold)["code"]) == (413, "request_too_large")
    assert fits.status_code == 200


FAILURES = [
    (Reason.CONTEXT_LENGTH_EXCEEDED, 400, "context_length_exceeded", "messages", None),
    (Reason.INVALID_ARGUMENT, 400, "invalid_value", None, None),
    (Reason.UNSUPPORTED, 400, "unsupported_parameter", None, None),
    (Reason.MODEL_NOT_FOUND, 404, "model_not_found", None, None),
    (Reason.QUEUE_FULL, 429, "rate_limit_exceeded", None, "1"),
    (Reason.ENGINE_FAILED, 500, "engine_failed", None, None),
    (Reason.DATA_LOSS, 500, "data_loss", None, None),
    (Reason.INTERNAL, 500, "internal_error", None, None),
    (Reason.ENGINE_DEAD, 503, "engine_unavailable", None, "2"),
    (Reason.SERVICE_UNAVAILABLE, 503, "service_unavailable", None, "2"),
    (Reason.DEADLINE_EXCEEDED, 504, "timeout", None, None),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("reason", "status", "code", "param", "retry_after"), FAILURES)
async def test_failure_before_the_first_token(
    http: httpx.AsyncClient,
    fake: FakeInference,
    stream: bool,
    reason: Reason,
    status: int,
    code: str,
    param: str | None,
    retry_after: str | None,
) -> None:
    fake.script = lambda request: Script(failure=FineryError(reason, "What happened."))
    response = await http.post(CHAT, json=GOOD | {"stream": stream})
    error = error_of(response)
    assert response.status_code == status
    assert (error["message"], error["code"], error["param"]) == ("What happened.", code, param)
    assert response.headers.get("retry-after") == retry_after


async def test_field_of_the_engine_becomes_the_parameter(http: httpx.AsyncClient, fake: FakeInference) -> None:
    failure = FineryError(Reason.INVALID_ARGUMENT, "Too many.", field="sampling.stop")
    fake.script = lambda request: Script(failure=failure)
    assert error_of(await http.post(CHAT, json=GOOD))["param"] == "stop"


async def test_deadline(start_gateway: Start, fake: FakeInference) -> None:
    fake.script = lambda request: Script(first_delay=30)
    url = await start_gateway(fake, request_seconds=0.3)
    async with httpx.AsyncClient(base_url=url) as client:
        response = await client.post(CHAT, json=GOOD)
    assert (response.status_code, error_of(response)["code"]) == (504, "timeout")
    assert fake.timeouts[0] == pytest.approx(0.3, abs=0.1)


async def test_context_length_is_a_bad_request_for_the_openai_client(client: AsyncOpenAI, fake: FakeInference) -> None:
    failure = FineryError(Reason.CONTEXT_LENGTH_EXCEEDED, "The prompt has 5000 tokens, the model takes 4096.")
    fake.script = lambda request: Script(failure=failure)
    with pytest.raises(BadRequestError) as caught:
        await client.chat.completions.create(model="toy", messages=[{"role": "user", "content": "long"}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(BadRequestError) as caught:
        await client.completions.create(model="toy", prompt="long")
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


async def test_a_bug_is_a_500_without_its_text(http: httpx.AsyncClient, fake: FakeInference) -> None:
    def bug(request: object) -> Script:
        raise ZeroDivisionError("secret")

    fake.script = bug
    response = await http.post(CHAT, json=GOOD)
    assert response.status_code == 500
    assert "secret" not in response.text
    assert error_of(response)["type"] == "server_error"
