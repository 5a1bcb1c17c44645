"""What the gateway tells of itself: it needs no other host, and shows every body."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from finery_gateway.openai import unserved
from finery_gateway.openai.schemas import ChatCompletionRequest, CompletionRequest, TokenizeRequest
from finery_gateway.openai.validation import check

BODIES = [
    ("/v1/chat/completions", ChatCompletionRequest, unserved.CHAT),
    ("/v1/completions", CompletionRequest, unserved.COMPLETIONS),
    ("/tokenize", TokenizeRequest, unserved.TOKENIZE),
]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


@pytest.mark.parametrize(("path", "model", "idle"), BODIES)
async def test_every_body_is_shown(lone_http: httpx.AsyncClient, path: str, model: type[BaseModel], idle: Any) -> None:
    route = (await lone_http.get("/openapi.json")).json()["paths"][path]["post"]
    body = route["requestBody"]["content"]["application/json"]
    assert set(body["schema"]["properties"]) == set(model.model_fields)
    assert len(body["examples"]) > 1
    for example in body["examples"].values():
        check(model, example["value"], idle)
    assert {"200", "400", "401", "404", "413", "503"} <= set(route["responses"])


async def test_the_document_is_whole(lone_http: httpx.AsyncClient) -> None:
    document = (await lone_http.get("/openapi.json")).json()
    assert {*document["paths"]} >= {"/v1/models", "/v1/models/{model}", "/health", "/ready"}
    shape = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    wanted = shape["properties"]["response_format"]["anyOf"][0]["properties"]["json_schema"]["anyOf"][0]["properties"]
    assert wanted["schema"]["type"] == "object"
    for reference in references(document):
        assert reference.startswith("#/components/schemas/")
        assert reference.rsplit("/", 1)[1] in document["components"]["schemas"]


async def test_the_page_needs_no_other_host(lone_http: httpx.AsyncClient) -> None:
    page = await lone_http.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"""(src|href)=["'](https?:)?//""", page.text)
    sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page.text)
    assert len(sources) >= 2
    for source in sources:
        assert (await lone_http.get(source)).status_code == 200, source
