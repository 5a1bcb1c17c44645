"""Whatever bytes, paths, methods and headers come: an answer or OpenAI's error, no 500, and the connection lives."""

import json
import string
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.unit.gateway.served import served

ROUTES = ("/v1/chat/completions", "/v1/completions", "/tokenize")
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "toy",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "bye"},
        ],
        "stop": ["a", "b"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.5,
        "top_k": 3,
        "seed": 1,
        "n": 2,
    },
    "/v1/completions": {"model": "toy", "prompt": ["a", "b"], "max_tokens": 5, "stop": "x", "n": 1},
    "/tokenize": {"model": "toy", "messages": [{"role": "user", "content": "hi"}]},
}


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    with served() as url:
        yield url


@pytest.fixture(scope="module")
def http(gateway: str) -> Iterator[httpx.Client]:
    """One connection for all examples: what breaks it breaks the next one."""
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(base_url=gateway, timeout=20, limits=limits) as client:
        yield client


def check(response: httpx.Response) -> None:
    """Not a fault of the server's, and OpenAI's words for what the client did wrong."""
    assert response.status_code < 500, response.text
    assert "Traceback" not in response.text
    assert response.headers["x-request-id"]
    if response.status_code >= 400 and response.request.method != "HEAD":
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"] and isinstance(error["message"], str)
        assert error["type"] and isinstance(error["type"], str)
        assert error["param"] is None or isinstance(error["param"], str)
        assert error["code"] is None or isinstance(error["code"], str)


HUGE = "9" * 400
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["", "\0", "\x1b[2J", "\u2028", "\U0010ffff", "😀" * 3000, "x" * 200_000]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 2**31, 2**32, 2**63, 2**64, 2**64 - 1, -(2**63) - 1, 1e308, -0.0, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
    st.sampled_from([[], {}, [[]], [{}], [None], {"": {}}, [[[1]]], {"type": "text"}, [{"type": "image_url"}]]),
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value) if isinstance(value, list) else 0))
    )
    return [at, *(path for key in keys for path in paths(value[key], (*at, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy: Any = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@st.composite
def spoilt(draw: st.DrawFn) -> tuple[str, Any]:
    """A good request with something else at one or two of its places."""
    route = draw(st.sampled_from(ROUTES))
    body = GOOD[route]
    for _ in range(draw(st.integers(1, 2))):
        body = replaced(body, draw(st.sampled_from(paths(body))), draw(VALUES))
    return route, body


@FUZZ
@given(request=spoilt())
def test_anything_in_any_place(http: httpx.Client, request: tuple[str, Any]) -> None:
    route, body = request
    check(http.post(route, content=json.dumps(body).encode()))


RAW = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'{"model": "toy", "messages": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"model": "toy", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "toy", "messages": [{"role": "user", "content": "\\udc00\\ud800"}], "prompt": "\\ud83d"}',
    b'{"model": "toy", "messages": [{"role": "user", "content": "\x01\x02"}]}',
    b'{"model": "toy", "messages": [{"role": "user", "content": "\\u0000\\u0001"}], "prompt": "\\u0000"}',
    b'{"model": "a", "model": "toy", "prompt": "x", "prompt": "y"}',
    b'{"model": "toy", "prompt": "x", "temperature": NaN}',
    b'{"model": "toy", "prompt": "x", "temperature": -Infinity}',
    b'{"model": "toy", "prompt": "x", "temperature": 1e999}',
    b'{"model": "toy", "prompt": "x", "seed": ' + HUGE.encode() + b"}",
    b'{"model": "toy", "prompt": "x", "max_tokens": 1e400, "seed": -' + HUGE.encode() + b"}",
    b'{"model": "toy", "prompt": [' + HUGE.encode() + b", -1, 4294967296]}",
    b'{"model": "toy", "prompt": [1.0, 2]}',
    b'{"model": "toy", "prompt": []}',
    b'{"model": "toy", "prompt": [[]]}',
    b'{"model": "toy", "prompt": "' + b"x" * 4_000_000 + b'"}',
    b'{"model": "' + b"m" * 100_000 + b'", "prompt": "x"}',
    b'{"' + b"k" * 100_000 + b'": 1, "model": "toy", "prompt": "x"}',
    b'{"model": "toy", "prompt": "x", "stop": ["' + b"s" * 100_000 + b'"]}',
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
def test_odd_bodies(http: httpx.Client, route: str, raw: bytes) -> None:
    check(http.post(route, content=raw))


@FUZZ
@given(route=st.sampled_from(ROUTES), raw=st.binary(max_size=200))
def test_any_bytes(http: httpx.Client, route: str, raw: bytes) -> None:
    check(http.post(route, content=raw))


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"]
SEGMENTS = st.sampled_from(
    ["v1", "models", "toy", "chat", "completions", "tokenize", "..", ".", "%00", "%2F", "%ff", ""]
)
PATHS = st.lists(SEGMENTS | st.text(string.ascii_letters + string.digits + "-_~", max_size=8), max_size=5)


@FUZZ
@given(
    method=st.sampled_from(METHODS), parts=PATHS, query=st.sampled_from(["", "?", "?a=%ff", "?a[]=1&a=2", "?model="])
)
@example(method="GET", parts=["v1", "models", "%ff"], query="")
@example(method="GET", parts=["v1", "models", "%00"], query="")
def test_any_path_and_method(gateway: str, http: httpx.Client, method: str, parts: list[str], query: str) -> None:
    target = f"/{'/'.join(parts)}{query}".encode()
    request = http.build_request(method, gateway)
    request.url = request.url.copy_with(raw_path=target)
    response = http.send(request)
    if not response.is_success or b"/v1" in target:
        check(response)


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "x-request-id",
            "content-type",
            "accept",
            "authorization",
            "accept-encoding",
            "origin",
            "expect",
            "x-forwarded-for",
        ]
    )
    | st.text(string.ascii_lowercase, min_size=1, max_size=8).map(lambda name: f"x-{name}"),
    st.binary(max_size=30).map(lambda b: bytes(c for c in b if c >= 0x20 and c != 0x7F).strip()),
    max_size=4,
)


@FUZZ
@given(route=st.sampled_from(ROUTES), headers=HEADERS)
def test_any_headers(http: httpx.Client, route: str, headers: dict[str, bytes]) -> None:
    check(http.post(route, content=orjson.dumps(GOOD[route]), headers={k.encode(): v for k, v in headers.items()}))


@pytest.fixture(scope="module")
def documented(http: httpx.Client) -> st.SearchStrategy[schemathesis.Case]:
    """Requests that the OpenAPI document allows."""
    schema = schemathesis.openapi.from_dict(http.get("/openapi.json").json())
    return st.one_of([operation.ok().as_strategy() for operation in schema.get_all_operations()])


@FUZZ
@given(data=st.data())
def test_what_is_documented(
    gateway: str, http: httpx.Client, documented: st.SearchStrategy[schemathesis.Case], data: st.DataObject
) -> None:
    told = data.draw(documented).as_transport_kwargs(base_url=gateway)
    known = {name: told[name] for name in ("params", "cookies", "json") if told.get(name) is not None}
    check(http.send(http.build_request(told["method"], told["url"], **known)))
