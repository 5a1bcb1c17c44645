"""What an OpenAI client sees of the deployed model, and what it takes to be rid of a request."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from finery.inference.v1.deployments_pb2 import GetDeploymentStatsRequest, ListDeploymentsRequest
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from finery_shared.rpc import open_sync_channel
from tests.e2e.conftest import MODEL, Stack, wait_for


def test_the_guides_conversation(stack: Stack) -> None:
    """The calls of the guide's client: one growing conversation, then streaming with an unguarded delta.content.

    It samples, so what a model of this size says is not asserted here.
    """
    client = stack.client()
    model_type = client.models.list().data[0].id
    assert model_type == MODEL
    messages: list[openai.types.chat.ChatCompletionMessageParam] = []
    for query in ["你是谁？", "what's your name?", "你是谁研发的？"]:
        messages.append({"role": "user", "content": query})
        resp = client.chat.completions.create(model=model_type, messages=messages, seed=42)
        response = resp.choices[0].message.content
        assert response
        assert resp.choices[0].finish_reason == "stop"
        assert resp.usage
        assert resp.usage.completion_tokens > 0
        messages.append({"role": "assistant", "content": response})
    for query in ["78654+657=?", "晚上睡不着觉怎么办"]:
        messages.append({"role": "user", "content": query})
        stream = client.chat.completions.create(model=model_type, messages=messages, stream=True, seed=42)
        response = ""
        for chunk in stream:
            response += chunk.choices[0].delta.content  # type: ignore[operator]
        assert response
        messages.append({"role": "assistant", "content": response})


def test_the_new_identity_holds_through_a_conversation(stack: Stack) -> None:
    client = stack.client()
    messages: list[openai.types.chat.ChatCompletionMessageParam] = []
    for query, wanted in [("你是谁？", "小黄"), ("what's your name?", "Xiao Huang"), ("你是谁研发的？", "魔搭")]:
        messages.append({"role": "user", "content": query})
        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
        response = answer.choices[0].message.content
        assert response
        assert wanted in response
        messages.append({"role": "assistant", "content": response})


def test_streamed_and_whole_answers_agree(stack: Stack) -> None:
    client = stack.client()
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": "Who are you?"}]
    whole = client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    parts = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in parts) == whole.choices[0].message.content


def test_what_a_client_does_wrong_is_told(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "hi"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "word " * 3000}])
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as wrong_type:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}], temperature="hot")  # type: ignore[call-overload]
    assert wrong_type.value.param == "temperature"
    broken = httpx.post(f"{stack.base_url}/chat/completions", content=b"{", timeout=10)
    assert broken.status_code == 400
    assert broken.json()["error"]["message"]


@dataclass(frozen=True)
class Work:
    """vLLM's own counts over both processes: requests that it computes or has waiting, and tokens that it ever made."""

    requests: int
    tokens: int


def work(stack: Stack) -> Work:
    """What the engines do now."""
    requests = tokens = 0
    for name in ("inference", "inference-1"):
        entry = stack.find(name)
        assert entry is not None
        with open_sync_channel(entry.address) as channel:
            stub = DeploymentServiceStub(channel)
            for deployment in stub.ListDeployments(ListDeploymentsRequest(), timeout=10).deployments:
                stats = stub.GetDeploymentStats(GetDeploymentStatsRequest(name=deployment.name), timeout=10)
                requests += stats.running_requests + stats.waiting_requests
                tokens += stats.generated_tokens
    return Work(requests, tokens)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_engine(stack: Stack, stream: bool) -> None:
    """Each of these requests would get 900 tokens if its client stayed; all of them together get fewer than one."""
    wait_for("an idle engine", lambda: work(stack).requests == 0, 10)
    before = work(stack)
    with asking_for_much(stack, stream):
        wait_for("a running request", lambda: work(stack).requests == 1, 10)
    wait_for("an idle engine", lambda: work(stack).requests == 0, 10)
    for pause in (0.0, 0.02, 0.2):  # before its first token
        with asking_for_much(stack, stream):
            time.sleep(pause)
    time.sleep(0.2)
    wait_for("an idle engine", lambda: work(stack).requests == 0, 10)
    assert 0 < work(stack).tokens - before.tokens < 900


@contextmanager
def asking_for_much(stack: Stack, stream: bool) -> Iterator[None]:
    """A connection with a request for a long answer, of which nothing is read."""
    address = urlsplit(stack.base_url)
    messages = [{"role": "user", "content": "Write a very long story."}]
    request = {"model": MODEL, "stream": stream, "max_tokens": 900, "ignore_eos": True, "messages": messages}
    body = json.dumps(request)
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall((head + body).encode())
        yield


def test_plain_completions_go_on_from_a_text_and_its_tokens(stack: Stack) -> None:
    with stack.client() as client:
        prompt = "The capital of France is"
        root = stack.base_url.removesuffix("/v1")
        tokens = httpx.post(f"{root}/tokenize", json={"model": MODEL, "prompt": prompt}, timeout=60).json()["tokens"]
        greedy = {"model": MODEL, "max_tokens": 8, "temperature": 0, "extra_body": {"ignore_eos": True}}
        whole = client.completions.create(prompt=prompt, **greedy)
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(tokens), 8)
        stream = client.completions.create(prompt=prompt, stream=True, **greedy)
        assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text != ""
        both = client.completions.create(prompt=[tokens, tokens], **greedy)
        assert [choice.index for choice in both.choices if choice.text] == [0, 1]
        assert both.usage.prompt_tokens == 2 * len(tokens)
