"""API keys on every path but those that tell of the process."""

import hashlib

import httpx
import pytest

from tests.fakes.inference_service import FakeInference
from tests.unit.gateway.conftest import Start

DIGEST = hashlib.sha256(b"second").hexdigest()


@pytest.fixture
async def guarded(start_gateway: Start, fake: FakeInference):
    url = await start_gateway(fake, api_keys=("first", f"sha256:{DIGEST}"))
    async with httpx.AsyncClient(base_url=url) as http:
        yield http


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic first", "first", f"Bearer sha256:{DIGEST}"]
)
async def test_refused(guarded: httpx.AsyncClient, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    for method, path in [
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("GET", "/v1/models/toy"),
        ("GET", "/v1/nonsense"),
        ("POST", "/tokenize"),
        ("GET", "/nonsense"),
        ("GET", "//v1/models"),
    ]:
        answer = await guarded.request(method, path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("key", ["first", "second"])
async def test_accepted(guarded: httpx.AsyncClient, key: str) -> None:
    assert (await guarded.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code == 200


async def test_health_needs_no_key(guarded: httpx.AsyncClient) -> None:
    assert (await guarded.get("/health")).status_code == 200
    assert (await guarded.get("/ready")).status_code == 200


async def test_the_documentation_needs_no_key(guarded: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css"):
        assert (await guarded.get(path)).status_code == 200
    assert (await guarded.get("/static-offline-docs/../v1/models")).status_code == 401


async def test_pages_of_other_origins_are_let_in_by_name_alone(start_gateway: Start, fake: FakeInference) -> None:
    url = await start_gateway(fake, api_keys=("first",), cors_origins=("https://app.example.org",))
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    async with httpx.AsyncClient(base_url=url) as http:
        for origin, let_in in (("https://app.example.org", True), ("https://elsewhere.example.org", False)):
            asked = await http.options("/v1/chat/completions", headers={"origin": origin, **asks})
            assert (asked.status_code == 200) is let_in
            sent = await http.get("/v1/models", headers={"origin": origin, "authorization": "Bearer first"})
            assert (sent.headers.get("access-control-allow-origin") == origin) is let_in
            assert "access-control-allow-credentials" not in sent.headers
        refused = await http.get("/v1/models", headers={"origin": "https://app.example.org"})
        assert refused.status_code == 401
        assert (
            refused.headers["access-control-allow-origin"] == "https://app.example.org"
        )  # so that the page can read it


async def test_without_origins_no_page_is_let_in(url: str) -> None:
    async with httpx.AsyncClient(base_url=url) as http:
        answer = await http.get("/v1/models", headers={"origin": "https://app.example.org"})
        assert "access-control-allow-origin" not in answer.headers
