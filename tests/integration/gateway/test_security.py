"""HTTPS in front of the gateway, token and certificates behind it, as real processes."""

import os
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from tests.fakes.certificates import Authority
from tests.integration.gateway.processes import Process, Processes, wait_until

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
TOKEN = "a-token-of-the-tests"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca")


def trust(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca))


def tls(cert: Path, key: Path) -> dict[str, str]:
    return {"FINERY_GATEWAY_TLS_CERT": str(cert), "FINERY_GATEWAY_TLS_KEY": str(key)}


def ask(gateway: Process) -> int:
    return httpx.post(f"http://{gateway.address()}/v1/chat/completions", json=BODY).status_code


@pytest.mark.parametrize("workers", ["1", "2"])
def test_https(processes: Processes, authority: Authority, workers: str) -> None:
    identity = authority.issue("127.0.0.1")
    settings = tls(identity.cert, identity.key) | {"FINERY_GATEWAY_WORKERS": workers}
    gateway = processes.gateway(processes.inference(), **settings)
    url = gateway.address()
    assert url.startswith("https://127.0.0.1:")
    with httpx.Client(verify=trust(authority)) as http:
        client = OpenAI(base_url=f"{url}/v1", api_key="EMPTY", http_client=http, max_retries=0)
        stream = client.chat.completions.create(model="toy", messages=BODY["messages"], stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "piece0 piece1 piece2 "
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{url}/health")
    gateway.terminate()
    assert gateway.exit_status() == 0


def test_a_certificate_that_cant_serve_ends_the_start(processes: Processes, authority: Authority) -> None:
    one, other = authority.issue("127.0.0.1"), authority.issue("localhost")
    absent = authority.ca.with_name("absent.pem")
    for settings, words in [
        (tls(absent, one.key), f"FINERY_GATEWAY_TLS_CERT={absent} can't be read: No such file"),
        (tls(one.cert, absent), f"FINERY_GATEWAY_TLS_KEY={absent} can't be read: No such file"),
        (tls(one.cert, other.key), "are not a certificate and its unencrypted key"),
        (tls(one.key, one.key), "are not a certificate and its unencrypted key"),
    ]:
        gateway = processes.spawn("finery_gateway", **(settings | {"FINERY_GATEWAY_LISTEN": "127.0.0.1:0"}))
        assert gateway.exit_status() == 1
        assert words in gateway.log()
        assert "Traceback" not in gateway.log()


@pytest.mark.parametrize("guards", ["token", "certificates"])
def test_the_gateway_shows_what_inference_asks_for(processes: Processes, authority: Authority, guards: str) -> None:
    settings = {"FINERY_RPC_TOKEN": TOKEN} if guards == "token" else authority.issue("127.0.0.1").rpc()
    backend = processes.inference(**settings)
    gateway = processes.gateway(backend, **settings)
    assert ask(gateway) == 200
    stranger = processes.gateway(backend)
    assert ask(stranger) == 503
    if guards == "token":
        wait_until(lambda: "FINERY_RPC_TOKEN_FILE" in stranger.log())
    assert TOKEN not in gateway.log() + stranger.log() + backend.log()


def test_a_token_file_that_others_can_read_ends_the_start(processes: Processes, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    gateway = processes.spawn("finery_gateway", FINERY_RPC_TOKEN_FILE=str(path))
    assert gateway.exit_status() == 1
    assert f"FINERY_RPC_TOKEN_FILE={path} has mode 0644" in gateway.log()


def test_another_machine_is_served_with_a_key_only(processes: Processes, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        listen = f"0.0.0.0:{probe.getsockname()[1]}"
    keys = tmp_path / "keys"
    with open(os.open(keys, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("a-key\n")
    refused = processes.gateway(processes.inference(), FINERY_GATEWAY_LISTEN=listen)
    assert refused.exit_status() == 1
    settings = {"FINERY_GATEWAY_LISTEN": listen, "FINERY_GATEWAY_API_KEYS_FILE": str(keys)}
    gateway = processes.gateway(processes.inference(), **settings)
    url = f"http://127.0.0.1:{gateway.address().rpartition(':')[2]}"
    assert httpx.get(f"{url}/v1/models").status_code == 401
    assert httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer a-key"}).status_code == 200
