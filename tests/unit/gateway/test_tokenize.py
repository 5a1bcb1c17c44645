"""`POST /tokenize`, as vLLM's clients know it."""

import httpx
import pytest

from finery_shared.errors import FineryError, Reason
from tests.fakes.inference_service import FakeInference
from tests.unit.gateway.conftest import Start

TEXT = {"model": "toy", "prompt": "hi"}
CHAT = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("body", [TEXT, CHAT])
async def test_tokens_are_told(http: httpx.AsyncClient, fake: FakeInference, body: dict[str, object]) -> None:
    response = await http.post("/tokenize", json=body)
    assert response.status_code == 200
    assert response.json() == {"count": 3, "max_model_len": 4096, "tokens": [1, 2, 3], "token_strs": None}
    [asked] = fake.tokenized
    assert asked.WhichOneof("prompt") == ("text" if "prompt" in body else "chat")
    assert (asked.text.text or asked.chat.messages[0].content) == "hi"


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"model": "toy"}, 400, "prompt", "invalid_value"),
        (TEXT | CHAT, 400, "prompt", "invalid_value"),
        (TEXT | {"prompt": 5}, 400, "prompt", "invalid_type"),
        (TEXT | {"add_special_tokens": False}, 400, "add_special_tokens", "unsupported_parameter"),
        (TEXT | {"model": "nobody"}, 404, "model", "model_not_found"),
    ],
)
async def test_refused(http: httpx.AsyncClient, body: dict[str, object], status: int, param: str, code: str) -> None:
    response = await http.post("/tokenize", json=body)
    assert response.status_code == status
    assert (response.json()["error"]["param"], response.json()["error"]["code"]) == (param, code)


async def test_another_backend_is_asked_when_one_can_not_tell(start_gateway: Start, fake: FakeInference) -> None:
    other = FakeInference()
    await other.start()
    dead = FineryError(Reason.ENGINE_DEAD, "The engine has died.")
    fake.tokenize_failure = dead
    async with httpx.AsyncClient(base_url=await start_gateway(fake, other)) as http:
        answers = [(await http.post("/tokenize", json=TEXT)).status_code for _ in range(4)]
        assert answers == [200] * 4
        other.tokenize_failure = dead
        assert (await http.post("/tokenize", json=TEXT)).status_code == 503
    await other.stop()
