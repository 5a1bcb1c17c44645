"""Whatever the body, the answer is a request for the engine or a 400."""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from finery.inference.v1 import inference_pb2 as pb
from finery_gateway.openai import convert, unserved
from finery_gateway.openai.errors import ApiError
from finery_gateway.openai.schemas import ChatCompletionRequest, CompletionRequest
from finery_gateway.openai.validation import check

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
NAMES = sorted({*ChatCompletionRequest.model_fields, *unserved.CHAT})
CALLS = st.fixed_dictionaries(
    {
        "id": st.text() | JSON,
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text(), "arguments": st.sampled_from(["{}", "", "{"]) | st.text()}
        ),
    }
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", "g", ""])}, optional={"parameters": st.just({}) | JSON, "strict": JSON}
            ),
        }
    ),
    max_size=2,
)
CHOICES = st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]) | JSON
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "boss"]), "content": st.text() | JSON},
        optional={
            "name": st.text() | JSON,
            "tool_call_id": st.text() | JSON,
            "tool_calls": st.lists(CALLS | JSON, max_size=2) | JSON,
        },
    ),
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"model": st.text() | JSON, "messages": MESSAGES | JSON},
    optional={"tools": TOOLS, "tool_choice": CHOICES, "chat_template_kwargs": st.dictionaries(st.text(), JSON)},
).flatmap(
    lambda body: st.dictionaries(st.sampled_from(NAMES) | st.text(), JSON, max_size=3).map(lambda more: more | body)
)


@settings(max_examples=400, deadline=None)
@given(BODIES)
def test_any_body(body: dict[str, Any]) -> None:
    body = orjson.loads(orjson.dumps(body))
    try:
        wish = check(ChatCompletionRequest, body, unserved.CHAT)
    except ApiError as error:
        assert error.status == 400
        assert orjson.loads(error.body())["error"]["message"]
    else:
        request = convert.to_generate(wish)
        assert [m.content for m in request.chat.messages] == [m.text for m in wish.messages]
        assert [t.name for t in request.chat.tools] == [t.function.name for t in wish.tools or ()]
        assert {n: orjson.loads(v) for n, v in request.chat.template_kwargs.items()} == (
            wish.chat_template_kwargs or {}
        )
        if request.chat.tool_choice.mode == pb.TOOL_CHOICE_MODE_REQUIRED:
            assert request.chat.tools


PROMPTS = st.text() | st.lists(st.text() | st.integers(-1, 2**33) | st.lists(st.integers(-1, 2**33)), max_size=4) | JSON


@settings(max_examples=400, deadline=None)
@given(PROMPTS, st.dictionaries(st.sampled_from(sorted(CompletionRequest.model_fields)) | st.text(), JSON, max_size=2))
def test_any_prompt(prompt: Any, more: dict[str, Any]) -> None:
    try:
        wish = check(CompletionRequest, {"model": "m"} | more | {"prompt": prompt}, unserved.COMPLETIONS)
    except ApiError as error:
        assert error.status == 400
        assert orjson.loads(error.body())["error"]["message"]
    else:
        requests = convert.to_generates(wish)
        asked = [list(r.token_ids.token_ids) if r.HasField("token_ids") else r.text.text for r in requests]
        several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert asked == (prompt if several else [prompt])
