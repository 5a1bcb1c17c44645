"""Deploying and talking: the real inference service with its fake engine, and the real gateway."""

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finery.inference.v1.deployments_pb2 import Deployment
from finery_client import Chat, Connection, FineryError, Reason, chat, chat_stream, deploy, load_model
from finery_client.calls import Calls
from finery_client.conversation import conversation
from finery_client.deployments import Deployments
from finery_client.endpoints import Endpoint
from finery_client.local import Machine
from finery_shared.errors import CATALOG
from tests.unit.client.conftest import FREE_PORTS, ROOT, Finery, finish, read_until, wait_for, write_interpreter

TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|im_end|>{% endfor %}"
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 151936,
    "max_position_embeddings": 4096,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory that looks like a chat model; the fake engine does not read its weights."""
    path = tmp_path / "toy"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG))
    (path / "tokenizer.json").write_text("{}")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}))
    (path / "model.safetensors").touch()
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A directory that looks like an adapter of that model."""
    path = tmp_path / "tuned"
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 8}))
    (path / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return path


@pytest.fixture
def serving_env(env: dict[str, str], venvs: Path) -> dict[str, str]:
    write_interpreter(venvs, "inference", "-m finery_inference")
    env |= {"FINERY_INFERENCE_ENGINE": "fake", "PYTHONPATH": str(ROOT / "services" / "inference")}
    return env


def test_the_sdk_deploys_and_talks(model: Path, serving_env: dict[str, str], machine: Callable[..., Machine]):
    states: list[int] = []
    with Connection(machine(serving_env)) as services:
        serving = deploy(
            model_id_or_path=str(model),
            served_model_name="toy",
            port=0,
            max_model_len=1024,
            connection=services,
            on_state=lambda deployment: states.append(deployment.state),
        )
        assert (serving.model_id, serving.private, serving.max_model_len) == ("toy", True, 1024)
        assert states[-1] == 2, "READY"
        talk = serving.chat()
        assert talk.models() == ["toy"]
        turns = conversation("Hello", history=[{"role": "assistant", "content": "Hm"}])
        whole = talk.complete(turns, {"max_tokens": 8})
        assert len(whole) == 8
        assert whole == chat(turns, base_url=serving.base_url, sampling={"max_tokens": 8})
        pieces = list(chat_stream("Hello", base_url=serving.base_url, model="toy", sampling={"max_tokens": 5}))
        assert len("".join(pieces)) == 5
        with pytest.raises(FineryError) as missing:
            Chat(serving.base_url, "other").complete(conversation("Hello"))
        assert missing.value.reason in (Reason.MODEL_NOT_FOUND, Reason.DEPLOYMENT_NOT_FOUND)
        with pytest.raises(FineryError) as long:
            talk.complete(conversation("word " * 2000))
        assert CATALOG[long.value.reason].openai_code == "context_length_exceeded"
        with pytest.raises(FineryError, match="--served_model_name") as taken:
            deploy(model_id_or_path=str(model), served_model_name="toy", port=0, connection=services)
        assert taken.value.reason is Reason.MODEL_TAKEN
    assert serving.alive() is not None, "the processes have ended with the connection"


@pytest.fixture
def someone_elses(serving_env: dict[str, str], machine: Callable[..., Machine]) -> Iterator[Endpoint]:
    """An inference process that takes two seconds to load a model; whoever uses it did not start it."""
    with Connection(machine(serving_env | {"FINERY_INFERENCE_FAKE_START_SECONDS": "2"})) as services:
        yield services.endpoint("inference")


def deployed(endpoint: Endpoint) -> list[str]:
    with Calls(endpoint) as calls:
        return [deployment.model_id for deployment in Deployments(calls).list()]


def test_a_model_is_loaded_for_a_with_statement_alone(
    model: Path, someone_elses: Endpoint, serving_env: dict[str, str], machine: Callable[..., Machine]
):
    named = machine(serving_env | {"FINERY_INFERENCE": someone_elses.address})
    with Connection(named) as services, load_model(model_id_or_path="toy", connection=services) as loaded:
        assert deployed(someone_elses) == ["toy"]
        response, history = loaded.ask("Hello", max_tokens=8)
        stream = loaded.stream("And now?", history, max_tokens=8)
        assert "".join(stream) == stream.response
        assert [len(answer.response) for answer in loaded.ask_all(["a", "b"], max_tokens=8)] == [8, 8]
    assert len(response) == 8
    assert len(stream.history) == 4
    assert deployed(someone_elses) == []


def test_private_services_of_a_lent_connection_forget_a_loaded_model(
    model: Path, serving_env: dict[str, str], machine: Callable[..., Machine]
):
    with Connection(machine(serving_env)) as services:
        with load_model(model_id_or_path=str(model), served_model_name="toy", connection=services):
            assert deployed(services.endpoint("inference")) == ["toy"]
        assert deployed(services.endpoint("inference")) == []


def test_a_load_that_fails_or_is_interrupted_leaves_nothing_behind(
    model: Path, someone_elses: Endpoint, machine: Callable[..., Machine]
):
    def interrupt(deployment: Deployment) -> None:
        assert deployed(someone_elses) == ["toy"]
        raise KeyboardInterrupt

    def spoil(deployment: Deployment) -> None:
        assert deployed(someone_elses) == ["toy"]
        shutil.rmtree(model, ignore_errors=True)

    with Connection(machine({"FINERY_INFERENCE": someone_elses.address})) as services:
        with pytest.raises(KeyboardInterrupt):
            deploy(model_id_or_path=str(model), port=0, connection=services, on_state=interrupt)
        assert deployed(someone_elses) == []
        with pytest.raises(FineryError, match="toy could not be loaded: There is no model directory") as failed:
            deploy(model_id_or_path=str(model), port=0, connection=services, on_state=spoil)
        assert failed.value.reason is Reason.ENGINE_FAILED
        assert deployed(someone_elses) == []


def test_a_gateway_of_the_commands_own_serves_until_interrupted_those_who_have_its_key(
    finery: Finery,
    model: Path,
    serving_env: dict[str, str],
    someone_elses: Endpoint,
    monkeypatch: pytest.MonkeyPatch,
):
    named = serving_env | {"FINERY_INFERENCE": someone_elses.address, "FINERY_GATEWAY_API_KEYS": "its-key"}
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with finery.start("deploy", "--model_id_or_path", "toy", "--port", "0", **named) as process:
        assert "The model stays deployed" in read_until(process, "Serving until Ctrl-C")
        assert process.stdout is not None
        _, second = process.stdout.readline(), process.stdout.readline()
        url = second.removeprefix("base_url: ").strip()
        with pytest.raises(FineryError) as stranger:
            Chat(url).models()
        assert stranger.value.reason is Reason.UNAUTHENTICATED
        assert Chat(url, api_key="its-key").models() == ["toy"]
        monkeypatch.setenv("OPENAI_API_KEY", "its-key")
        assert Chat(url).models() == ["toy"]
        process.send_signal(signal.SIGINT)
        finish(process)
    assert process.returncode == 0
    assert deployed(someone_elses) == ["toy"]


def test_a_gateway_that_is_not_there():
    with pytest.raises(FineryError) as away:
        Chat("http://127.0.0.1:9/v1", "toy").complete(conversation("Hello"))
    assert away.value.reason is Reason.SERVICE_UNAVAILABLE
    assert "finery up" in away.value.message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_deploy_serves_until_interrupted(
    finery: Finery, model: Path, serving_env: dict[str, str], number: signal.Signals
):
    with finery.start("deploy", "--model_id_or_path", "toy", "--port", "0", **serving_env) as process:
        read_until(process, "Serving until Ctrl-C")
        assert process.stdout is not None
        first, second = process.stdout.readline(), process.stdout.readline()
        assert first == "model: toy\n"
        url = second.removeprefix("base_url: ").strip()
        assert Chat(url).models() == ["toy"]
        talked = subprocess_talk(finery, serving_env)
        one = finery("infer", "--query", "Who are you?", "--max_new_tokens", "8", "--stream", "false", **serving_env)
        process.send_signal(number)
        finish(process)
    assert process.returncode == 0
    assert talked.returncode == 0, talked.stderr
    assert talked.stdout.count("-" * 50) == 2
    assert talked.stdout.startswith("<<< Who are you?\n")
    assert "<<< clear" not in talked.stdout
    assert one.returncode == 0, one.stderr
    assert len(one.stdout) == len("\n") + 8


def subprocess_talk(finery: Finery, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with finery.start("infer", "--max_new_tokens", "8", **env) as process:
        out, err = process.communicate("Who are you?\nclear\n\nAnd now?\nexit\nnot asked\n", timeout=60)
    return subprocess.CompletedProcess("infer", process.returncode, out, err)


def test_deploy_to_up_and_delete(finery: Finery, model: Path, serving_env: dict[str, str]):
    with finery.start("up", "--inference_processes", "2", **serving_env | FREE_PORTS) as process:
        read_until(process, "Ctrl-C stops")
        words = ("deploy", "--model_id_or_path", "toy", "--served_model_name")
        first, second = finery(*words, "one"), finery(*words, "two", "--replicas", "0")
        assert first.returncode == second.returncode == 0, first.stderr + second.stderr
        assert first.stdout.startswith("model: one\nbase_url: http://127.0.0.1:")
        again = finery(*words, "one")
        assert again.returncode == 1
        assert "--served_model_name" in again.stderr
        rows = finery("deployments", "list").stdout.splitlines()[1:]
        assert sorted(row.split()[0] for row in rows) == ["one", "two", "two"]
        assert len({row.split()[2] for row in rows}) == 2, "two processes"
        unclear = finery("infer")
        assert unclear.returncode == 2
        assert "--model" in unclear.stderr
        deleted = finery("deployments", "delete", "two")
        assert deleted.stdout == "two: deleted\ntwo: deleted\n"
        process.send_signal(signal.SIGTERM)
        finish(process)
    assert process.returncode == 0


def test_adapters_come_and_go_beside_a_model(finery: Finery, model: Path, adapter: Path, serving_env: dict[str, str]):
    with finery.start("up", "--inference_processes", "2", **serving_env | FREE_PORTS) as process:
        read_until(process, "Ctrl-C stops")
        plain = finery("deploy", "--model_id_or_path", "toy", "--served_model_name", "plain")
        assert plain.returncode == 0, plain.stderr
        refused = finery("adapters", "create", "--deployment", "plain", "--ckpt_dir", "tuned")
        assert refused.returncode == 1
        assert "--enable_lora true" in refused.stderr
        words = ("deploy", "--model_id_or_path", "toy", "--replicas", "0", "--enable_lora", "true")
        based = finery(*words)
        assert based.returncode == 0, based.stderr
        url = based.stdout.split("base_url: ")[1].strip()
        made = finery("adapters", "create", "--deployment", "toy", "--ckpt_dir", "tuned")
        assert made.returncode == 0, made.stderr
        assert made.stdout == "model: toy:tuned\n"
        assert "toy:tuned: ready" in made.stderr
        rows = [row.split() for row in finery("adapters", "list").stdout.splitlines()]
        assert rows[0] == ["model", "state", "base", "process", "adapter", "serves"]
        shown = [(row[0], row[1], row[2], row[5]) for row in rows[1:]]
        assert shown == [("toy:tuned", "READY", "toy", str(adapter))] * 2
        wait_for(lambda: sorted(Chat(url).models()) == ["plain", "toy", "toy:tuned"])
        assert Chat(url, "toy:tuned").complete(conversation("Hello"), {"max_tokens": 8})
        missing = finery("adapters", "create", "--deployment", "toy", "--ckpt_dir", "nowhere")
        assert missing.returncode == 1
        assert "nowhere is not a directory" in missing.stderr
        deleted = finery("adapters", "delete", "toy:tuned")
        assert deleted.stdout == "toy:tuned: deleted\n" * 2
        assert finery("adapters", "list").stdout == ""
        assert "No adapter 'toy:tuned' is deployed" in finery("adapters", "delete", "toy:tuned").stderr
        process.send_signal(signal.SIGTERM)
        finish(process)
    assert process.returncode == 0


def test_a_serving_takes_adapters(
    model: Path, adapter: Path, serving_env: dict[str, str], machine: Callable[..., Machine]
):
    with Connection(machine(serving_env)) as services:
        serving = deploy(model_id_or_path=str(model), port=0, enable_lora=True, connection=services)
        tuned = serving.add_adapter(adapter, "mine")
        wait_for(lambda: tuned.models() == ["toy", "mine"])
        answers = {talk.complete(conversation("Hello"), {"max_tokens": 8}) for talk in (serving.chat(), tuned)}
        assert len(answers) == 2
        with pytest.raises(FineryError) as taken:
            serving.add_adapter(adapter, "mine")
        assert taken.value.reason is Reason.MODEL_TAKEN


def test_a_port_in_use_names_the_flag(finery: Finery, model: Path, serving_env: dict[str, str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = finery("deploy", "--model_id_or_path", "toy", "--port", port, **serving_env)
    assert done.returncode == 1
    assert port in done.stderr
    assert "--port" in done.stderr


def test_a_checkpoint_without_manifest(finery: Finery, model: Path, serving_env: dict[str, str]):
    done = finery("deploy", "--ckpt_dir", "toy", "--port", "0", **serving_env)
    assert done.returncode == 1
    assert "manifest.json" in done.stderr
    assert "Traceback" not in done.stderr
