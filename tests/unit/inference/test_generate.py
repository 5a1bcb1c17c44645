import asyncio
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import inference_pb2 as i
from finery_inference.engines.fake import FakePace
from finery_shared.errors import Reason
from tests.unit.inference.harness import Harness, eventually, refusal, write_model

RENDERED = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
PROMPT_TOKENS = 1 + 5 + 2 + 1 + 1 + 1 + 10


async def tokenize(harness: Harness, **prompt: Any) -> list[int]:
    response = await harness.inference.Tokenize(i.TokenizeRequest(model="m", **prompt))
    assert response.max_model_len == 2048
    return list(response.token_ids)


async def test_a_chat_is_answered_in_chunks(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    events = [event async for event in harness.generate(temperature=0)]
    chunks, complete = [event.chunk for event in events[:-1]], events[-1].complete
    assert [chunk.completion_tokens for chunk in chunks] == list(accumulate(len(chunk.token_ids) for chunk in chunks))
    assert len("".join(chunk.text for chunk in chunks)) == 32
    assert [token for chunk in chunks for token in chunk.token_ids][-1] == 258
    assert [(f.index, f.finish_reason) for f in complete.finishes] == [(0, i.FINISH_REASON_STOP)]
    assert (complete.usage.prompt_tokens, complete.usage.completion_tokens) == (PROMPT_TOKENS, 33)


async def test_chat_text_and_token_ids_are_the_same_prompt(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    ids = await tokenize(harness, chat={"messages": [{"role": i.CHAT_ROLE_USER, "content": "hi"}]})
    assert len(ids) == PROMPT_TOKENS
    assert ids == await tokenize(harness, text={"text": RENDERED})
    requests = [
        i.GenerateRequest(model="m", text={"text": RENDERED}, sampling={"temperature": 0}),
        i.GenerateRequest(model="m", token_ids={"token_ids": ids}, sampling={"temperature": 0}),
    ]
    expected = (await harness.answer(temperature=0))[0]
    for request in requests:
        events = [event async for event in harness.inference.Generate(request)]
        assert "".join(event.chunk.text for event in events[:-1]) == expected


async def test_long_prompts_are_tokenized_the_same(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    text = "long " * 1000
    assert await tokenize(harness, text={"text": text}) == list(text.encode())


async def test_several_answers(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    events = [event async for event in harness.generate(n=2, max_tokens=5, temperature=1)]
    complete = events[-1].complete
    assert {event.chunk.index for event in events[:-1]} == {0, 1}
    assert [(f.index, f.finish_reason) for f in complete.finishes] == [(n, i.FINISH_REASON_LENGTH) for n in (0, 1)]
    assert complete.usage.completion_tokens == 10


async def test_answers_without_chance_are_the_same(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    events = [event async for event in harness.generate(n=3, max_tokens=5, temperature=0)]
    texts = ["".join(e.chunk.text for e in events[:-1] if e.chunk.index == index) for index in range(3)]
    assert texts == [(await harness.answer(max_tokens=5, temperature=0))[0]] * 3
    complete = events[-1].complete
    assert [(f.index, f.finish_reason) for f in complete.finishes] == [(n, i.FINISH_REASON_LENGTH) for n in range(3)]
    assert complete.usage.completion_tokens == 15


async def test_each_token_has_its_logprob(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    shape = {"choices": {"texts": ["é!"]}}
    chunks = [event.chunk async for event in harness.generate(structured_output=shape, logprobs=2)][:-1]
    assert "".join(chunk.text for chunk in chunks) == "é!"
    assert all(len(chunk.logprobs) == len(chunk.token_ids) for chunk in chunks)
    positions = [position for chunk in chunks for position in chunk.logprobs]
    assert [position.chosen.token for position in positions] == [b"\xc3", b"\xa9", b"!", b"<|im_end|>"]
    assert [position.chosen.token_id for position in positions] == [0xC3, 0xA9, 0x21, 258]
    for position in positions:
        assert [round(2.718281828**each.logprob, 3) for each in position.top] == [0.5, 0.25]
        assert position.top[0] == position.chosen
    alone = [event.chunk async for event in harness.generate(max_tokens=2, logprobs=0)][:-1]
    assert [len(position.top) for chunk in alone for position in chunk.logprobs] == [0, 0]
    without = [event.chunk async for event in harness.generate(max_tokens=2)][:-1]
    assert not any(chunk.logprobs for chunk in without)


async def test_a_bias_forces_and_forbids(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    assert (await harness.answer(logit_bias={ord("z"): 100}, max_tokens=4))[0] == "zzzz"
    assert "o" not in (await harness.answer(logit_bias={ord("o"): -100}, max_tokens=40, ignore_eos=True))[0]


async def test_an_answer_has_its_least_tokens(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    text, complete = await harness.answer(min_tokens=60, stop=["o"])
    assert complete.usage.completion_tokens > 60
    assert "o" in text[:50]


async def test_max_tokens_is_what_is_left_of_the_context(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir, max_model_len=64)
    _, complete = await harness.answer(ignore_eos=True)
    assert complete.finishes[0].finish_reason == i.FINISH_REASON_LENGTH
    assert complete.usage.completion_tokens == 64 - PROMPT_TOKENS


@pytest.mark.parametrize(("text", "max_tokens"), [("x" * 45, None), ("x" * 100, 1), ("hi", 44)])
async def test_more_than_the_context_is_refused(
    harness: Harness, model_dir: Path, text: str, max_tokens: int | None
) -> None:
    await harness.deploy(model_dir, max_model_len=64)
    error = await refusal(harness.generate(text, **({} if max_tokens is None else {"max_tokens": max_tokens})))
    assert error.reason is Reason.CONTEXT_LENGTH_EXCEEDED
    assert "maximum context length is 64 tokens" in error.message
    assert error.metadata["max_model_len"] == "64"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", 2.5),
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.5),
        ("presence_penalty", 3.0),
        ("frequency_penalty", -3.0),
        ("repetition_penalty", 0.0),
        ("n", 0),
        ("n", 1000),
        ("stop", [""]),
        ("logit_bias", {65: 100.5}),
        ("logit_bias", {65: float("nan")}),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ],
)
async def test_a_bad_sampling_field_is_named(harness: Harness, model_dir: Path, field: str, value: object) -> None:
    await harness.deploy(model_dir)
    error = await refusal(harness.generate(**{field: value}))
    assert error.reason is Reason.INVALID_ARGUMENT
    assert error.metadata == {"field": field}


async def test_bad_prompts_are_named(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "prompt"),
        ({"chat": {}}, "messages"),
        ({"chat": {"messages": [{"content": "hi"}]}}, "messages[0].role"),
        ({"text": {"text": ""}}, "prompt"),
        ({"token_ids": {"token_ids": [1, 259]}}, "prompt"),
        ({"text": {"text": "x"}, "sampling": {"logit_bias": {259: 1}}}, "logit_bias"),
        ({"text": {"text": "x"}, "sampling": {"stop_token_ids": [259]}}, "stop_token_ids"),
        ({"text": {"text": "x"}, "sampling": {"min_tokens": 9, "max_tokens": 8}}, "min_tokens"),
    ]
    for request, field in cases:
        error = await refusal(harness.inference.Generate(i.GenerateRequest(model="m", **request)))
        assert error.reason is Reason.INVALID_ARGUMENT, request
        assert error.metadata == {"field": field}
        assert error.message.startswith(f"{field}: ")
    assert harness.generator.running == 0


async def test_an_unknown_model_is_told_with_those_that_are_there(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    error = await refusal(harness.generate(model="other"))
    assert error.reason is Reason.DEPLOYMENT_NOT_FOUND
    assert "Deployed: m." in error.message


@pytest.mark.parametrize("first_token_seconds", [0.0, 30.0])
async def test_a_cancelled_call_aborts_the_request(tmp_path: Path, first_token_seconds: float) -> None:
    harness = Harness(tmp_path, FakePace(first_token_seconds=first_token_seconds, tokens_per_second=50))
    await harness.start()
    deployment = await harness.deploy(write_model(tmp_path / "toy-chat"))

    async def running() -> int:
        request = d.GetDeploymentStatsRequest(name=deployment.name)
        return int((await harness.deployments.GetDeploymentStats(request)).running_requests)

    call = harness.generate(max_tokens=1000, ignore_eos=True)
    if first_token_seconds == 0:
        await anext(aiter(call))
    else:
        await eventually(lambda: harness.generator.running == 1)
        await asyncio.sleep(0.05)
    assert await running() == 1
    call.cancel()
    await eventually(lambda: harness.generator.running == 0, seconds=1)
    assert await running() == 0
    await harness.stop()


async def test_more_requests_than_a_model_takes_are_told_to_come_again(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakePace(tokens_per_second=20, answer_tokens=1000), most=2)
    await harness.start()
    for name in ("m", "other"):
        await harness.deploy(write_model(tmp_path / f"{name}-chat"), name)
    streams = [harness.generate(model="m") for _ in range(2)]
    for stream in streams:
        assert (await stream.read()).HasField("chunk")
    refused = await refusal(harness.generate(model="m"))
    assert refused.reason is Reason.QUEUE_FULL
    assert "FINERY_INFERENCE_MAX_REQUESTS" in refused.message
    assert (await harness.answer(model="other", max_tokens=1))[1].usage.completion_tokens == 1
    streams[0].cancel()
    await eventually(lambda: harness.generator.running == 1)
    assert (await harness.answer(model="m", max_tokens=1))[1].usage.completion_tokens == 1
    streams[1].cancel()
    await harness.stop()


async def test_a_thousand_streams(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakePace(tokens_per_delta=4))
    await harness.start()
    await harness.deploy(write_model(tmp_path / "toy-chat"))
    answers = await asyncio.gather(*(harness.answer(max_tokens=8, ignore_eos=True) for _ in range(1000)))
    assert {len(text) for text, _ in answers} == {8}
    assert harness.generator.running == 0
    await harness.stop()


async def test_what_a_client_does_not_read_in_time_is_put_together(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    events = aiter(harness.generate(max_tokens=1500, ignore_eos=True))
    first = await anext(events)
    # The engine makes two thousand tokens a second: all of them by then, in as many deltas if somebody took them.
    await asyncio.sleep(1)
    rest = [len(event.chunk.token_ids) async for event in events if event.HasField("chunk")]
    assert len(first.chunk.token_ids) + sum(rest) == 1500
    assert len(rest) < 750
