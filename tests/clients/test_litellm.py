"""litellm, as a library that many tools put between themselves and a model."""

from typing import Any

import litellm
import pytest

from tests.clients.conftest import Server

# Its own warnings are its own affair.
pytestmark = pytest.mark.filterwarnings("ignore")

MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def settings(server: Server, **more: Any) -> dict[str, Any]:
    """What every call says."""
    defaults = {"model": f"openai/{server.model}", "api_base": server.url, "api_key": server.key, "messages": MESSAGES}
    return defaults | {"temperature": 0, "max_tokens": 12, "num_retries": 0, "timeout": 60} | more


def test_completion(server: Server) -> None:
    answer = litellm.completion(**settings(server))
    choice = answer.choices[0]
    assert (choice.message.role, answer.object) == ("assistant", "chat.completion")
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_stream(server: Server) -> None:
    whole = litellm.completion(**settings(server))
    chunks = list(litellm.completion(**settings(server, stream=True, stream_options={"include_usage": True})))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    rebuilt = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert rebuilt.choices[0].message.content == text
    assert rebuilt.usage.completion_tokens == whole.usage.completion_tokens
    assert rebuilt.choices[0].finish_reason == whole.choices[0].finish_reason


async def test_async(server: Server) -> None:
    whole = await litellm.acompletion(**settings(server))
    stream = await litellm.acompletion(**settings(server, stream=True))
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


def test_several_answers_and_batch(server: Server) -> None:
    answer = litellm.completion(**settings(server, n=2, temperature=1, seed=3))
    assert [c.index for c in answer.choices] == [0, 1]
    answers = litellm.batch_completion(**settings(server, messages=[MESSAGES] * 4))
    assert len({a.choices[0].message.content for a in answers}) == 1


def test_text_completion(server: Server) -> None:
    wish = settings(server, model=f"text-completion-openai/{server.model}", prompt="Once upon a time")
    del wish["messages"]
    answer = litellm.text_completion(**wish)
    assert answer.choices[0].text
    streamed = litellm.text_completion(**wish, stream=True)
    assert "".join(c.choices[0].text or "" for c in streamed) == answer.choices[0].text


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model": "openai/gpt-nowhere"}, litellm.NotFoundError),
        ({"temperature": 7}, litellm.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 10_000}]}, litellm.ContextWindowExceededError),
        ({"api_base": "http://127.0.0.1:1/v1"}, litellm.InternalServerError),
    ],
)
def test_errors_have_litellms_types(server: Server, change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        litellm.completion(**settings(server, **change))


def test_wrong_key(server: Server) -> None:
    if not server.guarded:
        pytest.skip("this gateway asks for no key")
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**settings(server, api_key="wrong"))
