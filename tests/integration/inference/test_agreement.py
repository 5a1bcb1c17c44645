"""The two real engines say the same: greedy, in fp32, whatever shares the batch."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from finery_inference.engines.protocol import EngineConfig, EngineFactory, EngineRequest, InferenceEngine, Sampling
from finery_inference.engines.transformers.factory import TransformersFactory
from finery_inference.engines.vllm.environment import scratch_directory, vllm_environment
from finery_inference.engines.vllm.factory import VllmFactory
from finery_inference.engines.vllm.hardware import Hardware, is_cpu_build
from finery_shared.templates import render_prompt
from tests.unit.inference.engine_contract import collect, text_of, tokens_of

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's, torch's and transformers' own warnings are theirs to mend

CACHE = 256 * 2**20
QUESTIONS = (
    "Who are you?",
    "Tell me about the sea.",
    "What is the capital of France?",
    "78654+657=?",
    "写一首关于雨的诗。",
    "Write a Python function that reverses a list.",
)
SAMPLINGS = {
    "greedy": Sampling(max_tokens=32, temperature=0.0, stop_token_ids=(2,)),
    "penalized": Sampling(
        max_tokens=32,
        temperature=0.0,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        stop_token_ids=(2,),
    ),
    "biased and long": Sampling(
        max_tokens=32, temperature=0.0, min_tokens=24, logit_bias={28: 5.0, 30: -100.0}, stop_token_ids=(2,)
    ),
    "stop text": Sampling(max_tokens=32, temperature=0.0, stop=(" the", "\n"), stop_token_ids=(2,)),
}
Said = dict[str, list[tuple[str, list[int], str | None]]]


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[EngineFactory, ...]:
    hardware = Hardware(is_cpu_build(), kv_cache_bytes=CACHE)
    scratch = scratch_directory(tmp_path)
    for name, value in vllm_environment(hardware, os.getpid(), tmp_path, scratch).items():
        monkeypatch.setenv(name, value)
    return TransformersFactory(cache_bytes=CACHE), VllmFactory(hardware, scratch)


async def said_by(engine: InferenceEngine) -> AsyncIterator[tuple[str, list[tuple[str, list[int], str | None]]]]:
    prompts = [render_prompt(engine.tokenizer, [{"role": "user", "content": text}]).token_ids for text in QUESTIONS]
    for name, sampling in SAMPLINGS.items():
        requests = [EngineRequest(f"{name} {at}", prompt, sampling) for at, prompt in enumerate(prompts)]
        answers = await asyncio.gather(*(collect(engine, request) for request in requests))
        yield name, [(text_of(deltas), tokens_of(deltas), deltas[-1].finish) for deltas in answers]


async def test_greedy_answers_are_the_same(factories: tuple[EngineFactory, ...], smollm2: Path) -> None:
    said: list[Said] = []
    for factory in factories:
        engine = await factory.start(EngineConfig(smollm2, max_model_len=1024, dtype="float32"))
        said.append({name: answers async for name, answers in said_by(engine)})
        await engine.shutdown()
        await factory.close()
    assert all(text for answers in said[0].values() for text, _, _ in answers[1:2])
    assert said[0] == said[1]
