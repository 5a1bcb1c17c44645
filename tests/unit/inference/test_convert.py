"""What is wrong in a message is the caller's error, however odd it is."""

import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import inference_pb2 as i
from finery_inference.convert import deployment_spec, page
from finery_inference.convert_chat import chat_input
from finery_shared.errors import FineryError, Reason

BOTTOMLESS = "[" * 100_000
DEEP = '{"a":' * 400 + "1" + "}" * 400


@pytest.mark.parametrize("text", [BOTTOMLESS, DEEP])
def test_deep_json_is_refused(text: str) -> None:
    call = i.ChatMessage(role=i.CHAT_ROLE_ASSISTANT, tool_calls=[i.ToolCall(name="f", arguments=BOTTOMLESS)])
    for prompt in (
        i.ChatPrompt(messages=[call]),
        i.ChatPrompt(tools=[i.Tool(name="f", parameters=text)]),
        i.ChatPrompt(template_kwargs={"x": text}),
    ):
        with pytest.raises(FineryError) as refusal:
            chat_input(prompt)
        assert refusal.value.reason is Reason.INVALID_ARGUMENT
    with pytest.raises(FineryError, match="engine_args"):
        deployment_spec(d.DeploymentSpec(ckpt_dir="/m", engine_args={"x": text}))


def test_a_long_page_token_was_not_given_out() -> None:
    with pytest.raises(FineryError) as refusal:
        page((), 10, "9" * 5000)
    assert refusal.value.reason is Reason.PAGE_TOKEN_INVALID


def test_everything_that_is_rendered_counts() -> None:
    schema = '{"a": "' + "x" * 3000 + '"}'
    call = i.ChatMessage(role=i.CHAT_ROLE_ASSISTANT, tool_calls=[i.ToolCall(name="f", arguments=schema)])
    for prompt in (
        i.ChatPrompt(messages=[call]),
        i.ChatPrompt(tools=[i.Tool(name="f", parameters=schema)]),
        i.ChatPrompt(template_kwargs={"x": schema}),
    ):
        assert chat_input(prompt).characters > 3000
