"""Tool calls by the OpenAI client, through the gateway, from the real vLLM: random weights that are held to schemas."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from openai import BadRequestError, OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1.deployments_pb2_grpc import DeploymentServiceStub
from finery_shared.home import announced
from tests.e2e.conftest import ROOT, wait_for
from tests.fakes.tiny_qwen import ANSWER, write_tiny_qwen
from tests.unit.shared.templates.family_templates import QWEN2_5

QUESTION: Any = [{"role": "user", "content": "Book a room."}]


class Book(BaseModel):
    """Books a room."""

    room: Literal["red", "blue"]
    nights: int = Field(ge=1, le=9)


TOOLS: Any = [pydantic_function_tool(Book, name="book"), {"type": "function", "function": {"name": "now"}}]
NAMED: Any = {"type": "function", "function": {"name": "book"}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    """A gateway over one inference process, which serves a tiny Qwen with Qwen2.5's template."""
    home = tmp_path_factory.mktemp("tools")
    model = write_tiny_qwen(home / "tiny-qwen", chat_template=QWEN2_5)
    started: list[subprocess.Popen[bytes]] = []

    def start(python: Path | str, service: str, **variables: str) -> str:
        prefix, file = f"FINERY_{service.upper()}", home / f"{service}.json"
        settings = {"FINERY_HOME": str(home), f"{prefix}_LISTEN": "127.0.0.1:0", f"{prefix}_ANNOUNCE": str(file)}
        with (home / f"{service}.log").open("wb") as log:
            command = [str(python), "-m", f"finery_{service}"]
            started.append(
                subprocess.Popen(command, cwd=home, env={**os.environ, **settings, **variables}, stdout=log, stderr=log)
            )
        wait_for(service, lambda: announced(file) is not None, 90)
        entry = announced(file)
        assert entry is not None
        return entry.address

    try:
        inference = start(ROOT / ".venvs" / "inference" / "bin" / "python", "inference")
        deploy(inference, model)
        gateway = start(sys.executable, "gateway", FINERY_INFERENCE=inference)
        with OpenAI(
            api_key="EMPTY", base_url=f"http://{gateway.removeprefix('http://')}/v1", max_retries=0, timeout=120
        ) as client:
            wait_for("the model", lambda: client.models.list().data, 30)
            yield client
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def deploy(address: str, model: Path) -> None:
    """Load a model, and wait until it is."""
    with grpc.insecure_channel(address) as channel:
        deployments: Any = DeploymentServiceStub(channel)
        spec = d.DeploymentSpec(model={"model_id_or_path": str(model)}, served_model_name="tiny", max_model_len=1024)
        deployments.CreateDeployment(d.CreateDeploymentRequest(spec=spec))

        def ready() -> bool:
            [deployment] = deployments.ListDeployments(d.ListDeploymentsRequest()).deployments
            assert deployment.state != d.DEPLOYMENT_STATE_FAILED, deployment.error.message
            return bool(deployment.state == d.DEPLOYMENT_STATE_READY)

        wait_for("the deployment", ready, 120)


def test_a_named_call_whole_and_as_a_stream(client: OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": QUESTION, "tools": TOOLS, "tool_choice": NAMED, "temperature": 0}
    [choice] = client.chat.completions.create(**asked).choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "book"
    Book.model_validate_json(call.function.arguments)
    with client.chat.completions.stream(**asked) as stream:
        [final] = stream.get_final_completion().choices
    [streamed] = final.message.tool_calls or []
    assert (streamed.function.name, streamed.function.arguments) == ("book", call.function.arguments)
    assert isinstance(streamed.function.parsed_arguments, Book)


def test_a_required_call(client: OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="tiny",
        messages=QUESTION,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        stream=True,
        temperature=0,
    )
    content, arguments, names = "", "", []
    for chunk in chunks:
        content += chunk.choices[0].delta.content  # type: ignore[operator]  # every chunk has one
        for delta in chunk.choices[0].delta.tool_calls or ():
            names += [delta.function.name] if delta.function and delta.function.name else []
            arguments += (delta.function and delta.function.arguments) or ""
    assert content == ""
    [name] = names
    if name == "book":
        Book.model_validate_json(arguments)
    else:
        assert json.loads(arguments) == {}


def test_a_conversation_with_a_call_goes_on(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    messages: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, tools=TOOLS, temperature=0)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (ANSWER, "stop")
    assert answer.choices[0].message.tool_calls is None


def test_a_schema_that_cannot_be_followed_is_named(client: OpenAI) -> None:
    tool: Any = {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {"x": {"type": "none"}}}}
    with pytest.raises(BadRequestError) as refusal:
        client.chat.completions.create(model="tiny", messages=QUESTION, tools=[{"type": "function", "function": tool}])
    assert refusal.value.param == "tools"
