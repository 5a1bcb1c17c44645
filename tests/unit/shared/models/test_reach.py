"""Reachability, against real sockets: one that answers, one that is closed, one that accepts and stays silent."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from finery_shared.models.reach import hugging_face_endpoint, modelscope_endpoint, unreachable_because


class NotFound(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def answering() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_any_status_is_an_answer(answering: str) -> None:
    assert unreachable_because(answering) is None


def test_closed_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problem = unreachable_because(f"http://127.0.0.1:{port}")
    assert problem is not None
    assert "refused" in problem


def test_silence_is_not_waited_for_long(silent: str) -> None:
    started = time.monotonic()
    problem = unreachable_because(silent, timeout_s=0.2)
    assert problem is not None
    assert "timed out" in problem
    assert time.monotonic() - started < 5


def test_an_address_that_is_none() -> None:
    assert unreachable_because("hub") is not None


def test_addresses_from_the_environment() -> None:
    assert hugging_face_endpoint({}) == "https://huggingface.co"
    assert hugging_face_endpoint({"HF_ENDPOINT": "https://mirror.example/"}) == "https://mirror.example"
    assert modelscope_endpoint({}) == "https://www.modelscope.cn"
    assert modelscope_endpoint({"MODELSCOPE_DOMAIN": "ms.example"}) == "https://ms.example"
