"""LoRA adapters on the real SmolLM2, beside its own answers."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from finery.inference.v1 import deployments_pb2 as d
from finery.inference.v1 import inference_pb2 as i
from tests.integration.inference.service import Client, Service, Services, connect, reason_of
from tests.unit.inference.adapter_directories import write_adapter

QUESTION = "What is the capital of France?"

ATTENTION = {"q_proj": (576, 576), "v_proj": (576, 192)}
"""Features in and out of SmolLM2-135M's layers."""


def start(services: Services, model: Path) -> Service:
    settings = {"ALLOWED_ROOTS": str(model.resolve()), "CPU_KV_CACHE_MIB": "256"}
    return services.start("vllm", **{f"FINERY_INFERENCE_{name}": value for name, value in settings.items()})


def adapter(path: Path, seed: int, **config: Any) -> Path:
    return write_adapter(path, ATTENTION, layers=30, rank=8, seed=seed, scale=0.5, **config)


def merge(model: Path, adapter: Path, path: Path) -> Path:
    """The model with the adapter's product added to its weights, W + alpha / r · B A."""
    shutil.copytree(model, path)
    weights, lora = load_file(model / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    merged = {name: value.float() for name, value in weights.items()}
    for name, a in lora.items():
        if name.endswith(".lora_A.weight"):
            b = lora[name.replace("lora_A", "lora_B")]
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            merged[f"{module}.weight"] += config["lora_alpha"] / config["r"] * (b @ a)
    save_file(merged, path / "model.safetensors", metadata={"format": "pt"})
    return path


async def greedy(client: Client, model: str) -> tuple[str, list[int]]:
    chat = {"messages": [{"role": i.CHAT_ROLE_USER, "content": QUESTION}]}
    sampling = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
    call = client.inference.Generate(i.GenerateRequest(model=model, chat=chat, sampling=sampling))
    events = [event async for event in call]
    tokens = [token for event in events[:-1] for token in event.chunk.token_ids]
    return "".join(event.chunk.text for event in events[:-1]), tokens


def long_story(client: Client, model: str) -> Any:
    chat = {"messages": [{"role": i.CHAT_ROLE_USER, "content": "Tell me a long story."}]}
    sampling = {"temperature": 0, "max_tokens": 400, "ignore_eos": True}
    return client.inference.Generate(i.GenerateRequest(model=model, chat=chat, sampling=sampling))


async def add(client: Client, parent: str, path: Path, name: str) -> d.Adapter:
    spec = d.AdapterSpec(ckpt_dir=str(path), served_model_name=name)
    response = await client.deployments.CreateAdapter(d.CreateAdapterRequest(parent=parent, spec=spec))
    return response.adapter  # type: ignore[no-any-return]


async def until(client: Client, model_id: str, state: d.DeploymentState.ValueType = d.DEPLOYMENT_STATE_READY) -> Any:
    async with asyncio.timeout(120):
        async for snapshot in client.deployments.WatchDeployments(d.WatchDeploymentsRequest()):
            for adapter in (one for deployment in snapshot.deployments for one in deployment.adapters):
                if (adapter.model_id, adapter.state) == (model_id, state):
                    return adapter
    raise AssertionError("the watch has ended")


@pytest.mark.timeout(480)
async def test_a_base_and_its_adapters_through_kills_of_engine_and_service(services: Services, smollm2: Path) -> None:
    paths = {"first": adapter(services.home / "first", 1), "second": adapter(services.home / "second", 2)}
    service = start(services, smollm2)
    async with connect(service) as client:
        await client.create(smollm2, max_model_len=1024, dtype="float32", enable_lora=True, max_lora_rank=8)
        base = await client.until(d.DEPLOYMENT_STATE_READY)
        before = await greedy(client, "m")
        assert "Paris" in before[0]

        # Adapters come and go under a running stream of the base, which loses nothing.
        story = asyncio.create_task(collect(long_story(client, "m")))
        made = {name: await add(client, base.name, path, name) for name, path in paths.items()}
        for name in paths:
            await until(client, name)
        answers = dict(
            zip(("m", *paths), await asyncio.gather(*(greedy(client, n) for n in ("m", *paths))), strict=True)
        )
        assert answers["m"] == before
        assert len({text for text, _ in answers.values()}) == 3
        call = long_story(client, "second")
        await anext(aiter(call))
        await client.deployments.DeleteAdapter(d.DeleteAdapterRequest(name=made["second"].name))
        assert await reason_of(call) == "DEPLOYMENT_NOT_READY"
        assert len(await story) == 400
        assert await greedy(client, "m") == before

        # One that the engine itself refuses fails, and nothing else does.
        await add(client, base.name, write_adapter(services.home / "odd", {"z_proj": (576, 576)}), "odd")
        odd = await until(client, "odd", d.DEPLOYMENT_STATE_FAILED)
        assert odd.error.reason == "ENGINE_FAILED"
        assert "z_proj" in odd.error.message
        assert await greedy(client, "first") == answers["first"]

        for process in await asyncio.to_thread(service.engines):
            process.kill()
        await client.until(d.DEPLOYMENT_STATE_FAILED)
        await until(client, "first")
        assert await greedy(client, "first") == answers["first"]
        assert await greedy(client, "m") == before
        services.watch_over(await asyncio.to_thread(service.engines))
        service.kill()

    async with connect(start(services, smollm2)) as client:
        await until(client, "first")
        assert await greedy(client, "first") == answers["first"]
        await add(client, base.name, paths["second"], "second")
        await until(client, "second")
        assert await greedy(client, "second") == answers["second"]
        await client.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=base.name))

        # What an adapter adds is what merging it adds.
        merged = await asyncio.to_thread(merge, smollm2, paths["first"], services.home / "merged")
        await client.create(merged, "merged", max_model_len=1024, dtype="float32")
        await client.until(d.DEPLOYMENT_STATE_READY, "merged")
        assert await greedy(client, "merged") == answers["first"]


async def collect(call: Any) -> list[int]:
    return [token async for event in call for token in event.chunk.token_ids]
