"""Adapters over gRPC: an inference process with the fake engine."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.engines.fake import FakePace
from finery_inference.engines.protocol import MOST_ADAPTERS
from finery_shared.artifacts.manifest import READ_AT_ONCE
from finery_shared.errors import FineryError, Reason
from tests.unit.inference.adapter_directories import publish_adapter, write_adapter
from tests.unit.inference.harness import Harness, eventually, refusal, write_artifact, write_model

READY, FAILED, LOADING = d.DEPLOYMENT_STATE_READY, d.DEPLOYMENT_STATE_FAILED, d.DEPLOYMENT_STATE_LOADING


class Adapted(Harness):
    """A process with helpers for adapters."""

    async def add(self, parent: str, path: Path, name: str = "", request_id: str = "") -> d.Adapter:
        spec = d.AdapterSpec(ckpt_dir=str(path), served_model_name=name)
        request = d.CreateAdapterRequest(parent=parent, spec=spec, request_id=request_id)
        return (await self.deployments.CreateAdapter(request)).adapter  # type: ignore[no-any-return]

    async def remove(self, name: str) -> None:
        await self.deployments.DeleteAdapter(d.DeleteAdapterRequest(name=name))

    async def until_adapter(self, model_id: str, state: d.DeploymentState.ValueType) -> d.Adapter:
        async with asyncio.timeout(10):
            async for snapshot in self.deployments.WatchDeployments(d.WatchDeploymentsRequest()):
                for adapter in (one for deployment in snapshot.deployments for one in deployment.adapters):
                    if (adapter.model_id, adapter.state) == (model_id, state):
                        return adapter  # type: ignore[no-any-return]
        raise AssertionError("the watch has ended")

    async def base(self, **spec: Any) -> d.Deployment:
        path = self.home / "toy-chat"
        return await self.deploy(path if path.is_dir() else write_model(path), enable_lora=True, **spec)


@pytest.fixture
async def adapted(tmp_path: Path) -> AsyncIterator[Adapted]:
    running = Adapted(tmp_path)
    await running.start()
    yield running
    await running.stop()


async def test_a_base_and_its_adapters_answer_side_by_side(adapted: Adapted) -> None:
    base = await adapted.base()
    before = (await adapted.answer())[0]
    made = await adapted.add(base.name, write_adapter(adapted.home / "checkpoint-9"))
    assert (made.model_id, made.state) == ("m:checkpoint-9", LOADING)
    assert made.name.startswith(f"{base.name}/adapters/")
    await adapted.add(base.name, write_adapter(adapted.home / "b"), "second")
    for name in ("m:checkpoint-9", "second"):
        await adapted.until_adapter(name, READY)
    answers = await asyncio.gather(*(adapted.answer(model=name) for name in ("m", "m:checkpoint-9", "second")))
    assert answers[0][0] == before
    assert len({text for text, _ in answers}) == 3
    got = await adapted.deployments.GetAdapter(d.GetAdapterRequest(name=made.name))
    assert (got.adapter.state, got.adapter.spec.ckpt_dir) == (READY, str(adapted.home / "checkpoint-9"))
    told = await adapted.deployments.GetDeployment(d.GetDeploymentRequest(name=base.name))
    assert [adapter.model_id for adapter in told.deployment.adapters] == ["m:checkpoint-9", "second"]


async def test_adapters_are_listed_in_pages_oldest_first(adapted: Adapted) -> None:
    base = await adapted.base()
    for name in "cab":
        await adapted.add(base.name, write_adapter(adapted.home / name), name)
    request = d.ListAdaptersRequest(parent=base.name, page_size=2)
    first = await adapted.deployments.ListAdapters(request)
    request.page_token = first.next_page_token
    rest = await adapted.deployments.ListAdapters(request)
    assert [[a.model_id for a in page.adapters] for page in (first, rest)] == [["c", "a"], ["b"]]
    assert not rest.next_page_token


async def test_deleting_an_adapter_ends_its_requests_and_no_others(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path, FakePace(first_token_seconds=0.01, tokens_per_second=200))
    await adapted.start()
    base = await adapted.base()
    made = await adapted.add(base.name, write_adapter(tmp_path / "a"), "a")
    await adapted.until_adapter("a", READY)
    calls = [adapted.generate(model=model, max_tokens=100, ignore_eos=True) for model in ("m", "a")]
    streams = [aiter(call) for call in calls]
    for stream in streams:
        await anext(stream)
    await adapted.remove(made.name)
    assert (await refusal(calls[1])).reason is Reason.DEPLOYMENT_NOT_READY
    assert [event async for event in calls[0]][-1].HasField("complete")
    assert (await refusal(adapted.generate(model="a"))).reason is Reason.DEPLOYMENT_NOT_FOUND
    for request in (
        adapted.deployments.GetAdapter(d.GetAdapterRequest(name=made.name)),
        adapted.deployments.DeleteAdapter(d.DeleteAdapterRequest(name=made.name)),
    ):
        assert (await refusal(request)).reason is Reason.DEPLOYMENT_NOT_FOUND
    # Its model id is free again, and what comes by it is something else.
    await adapted.add(base.name, write_adapter(tmp_path / "b"), "a")
    await adapted.until_adapter("a", READY)
    await adapted.stop()


async def test_deleting_a_deployment_deletes_its_adapters(adapted: Adapted) -> None:
    base = await adapted.base()
    path = write_adapter(adapted.home / "a")
    await adapted.add(base.name, path, "a")
    await adapted.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=base.name))
    assert (await refusal(adapted.add(base.name, path, "a"))).reason is Reason.DEPLOYMENT_NOT_FOUND
    assert not adapted.store.adapters(base.name)
    again = await adapted.base()
    await adapted.add(again.name, path, "a")


async def test_adapters_come_back_with_their_engine(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path, policy=RestartPolicy(first=0.3))
    await adapted.start()
    base = await adapted.base()
    await adapted.add(base.name, write_adapter(tmp_path / "a"), "a")
    await adapted.until_adapter("a", READY)
    text = (await adapted.answer(model="a"))[0]
    adapted.factory.engines[0].die()
    failed = await adapted.until_adapter("a", FAILED)
    assert failed.error.reason == "ENGINE_DEAD"
    assert (await refusal(adapted.generate(model="a"))).reason in (Reason.ENGINE_DEAD, Reason.DEPLOYMENT_NOT_READY)
    await adapted.until_adapter("a", READY)
    assert (await adapted.answer(model="a"))[0] == text
    await adapted.stop()


async def test_adapters_come_back_with_their_service(tmp_path: Path) -> None:
    first = Adapted(tmp_path)
    await first.start()
    base = await first.base()
    made = await first.add(base.name, write_adapter(tmp_path / "a"), "a")
    gone = await first.add(base.name, write_adapter(tmp_path / "b"), "b")
    ready = await first.until_adapter("a", READY)
    text = (await first.answer(model="a"))[0]
    await first.remove(gone.name)
    await first.stop()
    second = Adapted(tmp_path)
    await second.start()
    assert await second.until_adapter("a", READY) == ready
    assert ready.name == made.name
    assert (await second.answer(model="a"))[0] == text
    listed = await second.deployments.ListAdapters(d.ListAdaptersRequest(parent=base.name))
    assert len(listed.adapters) == 1
    await second.stop()


async def test_an_adapter_of_a_loading_deployment_waits_for_it(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path, FakePace(start_seconds=0.5))
    await adapted.start()
    model = {"model_id_or_path": str(write_model(tmp_path / "toy-chat"))}
    base = await adapted.create(model=model, served_model_name="m", enable_lora=True)
    made = await adapted.add(base.name, write_adapter(tmp_path / "a"), "a")
    assert made.state == LOADING
    error = await refusal(adapted.generate(model="a"))
    assert error.reason is Reason.DEPLOYMENT_NOT_READY
    await adapted.until_adapter("a", READY)
    await adapted.stop()


async def test_an_adapter_that_fails_to_load_says_why_and_leaves_its_base_alone(adapted: Adapted) -> None:
    path = write_adapter(adapted.home / "a")
    (path / "log.txt").write_bytes(bytes(READ_AT_ONCE + 1))
    publish_adapter(path)
    (path / "log.txt").write_bytes(bytes(READ_AT_ONCE) + b"x")
    base = await adapted.base()
    await adapted.add(base.name, path, "a")
    failed = await adapted.until_adapter("a", FAILED)
    assert failed.error.reason == "DATA_LOSS"
    assert str(path / "log.txt") in failed.error.message
    error = await refusal(adapted.generate(model="a"))
    assert error.reason is Reason.DEPLOYMENT_NOT_READY
    assert "could not be loaded" in error.message
    assert (await adapted.answer())[1].usage.completion_tokens
    assert await adapted.health()


async def test_a_model_id_is_taken_once_among_bases_and_adapters(adapted: Adapted) -> None:
    base = await adapted.base()
    path = write_adapter(adapted.home / "a")
    await adapted.add(base.name, path, "a")
    for name in ("a", "m"):
        error = await refusal(adapted.add(base.name, path, name))
        assert error.reason is Reason.MODEL_TAKEN
        assert "--served_model_name" in error.message
    model = {"model_id_or_path": str(adapted.home / "toy-chat")}
    assert (await refusal(adapted.create(model=model, served_model_name="a"))).reason is Reason.MODEL_TAKEN


async def test_a_repeated_request_makes_nothing_new(adapted: Adapted) -> None:
    base = await adapted.base()
    path, request_id = write_adapter(adapted.home / "a"), str(uuid.uuid4())
    made = await adapted.add(base.name, path, request_id=request_id)
    assert (await adapted.add(base.name, path, request_id=request_id)).name == made.name
    error = await refusal(adapted.add(base.name, path, "other", request_id))
    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_a_deployment_takes_so_many(adapted: Adapted) -> None:
    base = await adapted.base()
    path = write_adapter(adapted.home / "a")
    for number in range(MOST_ADAPTERS):
        await adapted.add(base.name, path, f"a{number}")
    error = await refusal(adapted.add(base.name, path, "one-more"))
    assert error.reason is Reason.UNSUPPORTED
    assert "Delete one first" in error.message


async def test_only_deployments_made_for_adapters_take_them(adapted: Adapted) -> None:
    plain = await adapted.deploy(write_model(adapted.home / "toy-chat"))
    error = await refusal(adapted.add(plain.name, write_adapter(adapted.home / "a")))
    assert error.reason is Reason.UNSUPPORTED
    assert "--enable_lora true" in error.message


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"max_loras": 2}, "max_loras"),
        ({"max_lora_rank": 8}, "max_lora_rank"),
        ({"enable_lora": True, "max_loras": 0}, "max_loras"),
        ({"enable_lora": True, "max_loras": 1000}, "max_loras"),
        ({"enable_lora": True, "max_lora_rank": 513}, "max_lora_rank"),
    ],
)
async def test_a_bad_field_of_a_deployment_is_named(adapted: Adapted, spec: dict[str, object], field: str) -> None:
    path = write_model(adapted.home / "toy-chat")
    error = await refusal(adapted.create(model={"model_id_or_path": str(path)}, **spec))
    assert (error.reason, error.metadata) == (Reason.INVALID_ARGUMENT, {"field": field})


async def test_what_a_deployment_was_made_for_is_told(adapted: Adapted) -> None:
    spec = (await adapted.base(max_loras=2, max_lora_rank=16)).spec
    assert (spec.enable_lora, spec.max_loras, spec.max_lora_rank) == (True, 2, 16)


async def refused(adapted: Adapted, path: Path, **spec: Any) -> FineryError:
    """The error for an adapter of that directory; nothing is stored."""
    base = await adapted.base(**spec)
    error = await refusal(adapted.add(base.name, path))
    assert not adapted.store.adapters(base.name)
    return error


async def test_a_whole_model_is_no_adapter(adapted: Adapted) -> None:
    path = write_artifact(adapted.home / "checkpoint-9-merged")
    error = await refused(adapted, path)
    assert error.reason is Reason.MODEL_INVALID
    assert f"finery deploy --ckpt_dir {path}" in error.message


async def test_only_allowed_directories_are_read(adapted: Adapted, tmp_path_factory: pytest.TempPathFactory) -> None:
    error = await refused(adapted, write_adapter(tmp_path_factory.mktemp("elsewhere") / "a"))
    assert error.reason is Reason.PATH_NOT_ALLOWED
    assert "FINERY_INFERENCE_ALLOWED_ROOTS" in error.message


async def test_a_damaged_file_is_named(adapted: Adapted) -> None:
    path = publish_adapter(write_adapter(adapted.home / "a"))
    (path / "adapter_config.json").write_text("{}")
    error = await refused(adapted, path)
    assert (error.reason, error.metadata) == (Reason.DATA_LOSS, {"file": str(path / "adapter_config.json")})


async def test_an_adapter_of_another_model_is_refused_by_its_manifest(adapted: Adapted) -> None:
    error = await refused(adapted, publish_adapter(write_adapter(adapted.home / "a"), "smollm2-135m-instruct"))
    assert error.reason is Reason.MODEL_INVALID
    assert "smollm2-135m-instruct" in error.message


async def test_an_adapter_of_another_model_is_refused_by_its_shapes(adapted: Adapted) -> None:
    error = await refused(adapted, write_adapter(adapted.home / "a", {"q_proj": (64, 128)}))
    assert error.reason is Reason.MODEL_INVALID
    assert "q_proj.lora_B.weight is made for 128 features, and the model has 64 there" in error.message


async def test_an_adapter_of_another_model_is_refused_by_what_peft_noted(adapted: Adapted) -> None:
    path = write_adapter(adapted.home / "a", base_model_name_or_path="Qwen/Qwen1.5-0.5B-Chat")
    model = {"model_id_or_path": str(write_model(adapted.home / "toy-chat")), "model_type": "smollm2-135m-instruct"}
    base = await adapted.create(model=model, served_model_name="m", enable_lora=True)
    error = await refusal(adapted.add(base.name, path))
    assert error.reason is Reason.MODEL_INVALID
    assert "qwen1half-0_5b-chat" in error.message


async def test_an_adapter_of_the_same_model_elsewhere_is_taken(adapted: Adapted) -> None:
    base = await adapted.base()
    await adapted.add(base.name, publish_adapter(write_adapter(adapted.home / "a")), "a")
    await adapted.until_adapter("a", READY)


async def test_a_rank_beyond_the_limit_is_refused_with_the_remedy(adapted: Adapted) -> None:
    path = write_adapter(adapted.home / "a", rank=16, rank_pattern={"q_proj": 32})
    error = await refused(adapted, path, max_lora_rank=16)
    assert error.metadata == {"field": "ckpt_dir"}
    assert "--max_lora_rank 32" in error.message


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"peft_type": "IA3"},
    ],
)
async def test_what_engines_do_not_compute_is_refused(adapted: Adapted, config: dict[str, Any]) -> None:
    path = write_adapter(adapted.home / "a", **config)
    error = await refused(adapted, path)
    assert error.reason is Reason.UNSUPPORTED
    assert next(iter(config)) in error.message
    assert f"finery deploy --ckpt_dir {path} --merge_lora true" in error.message


async def test_plain_variants_of_lora_are_taken(adapted: Adapted) -> None:
    base = await adapted.base()
    path = write_adapter(adapted.home / "a", use_rslora=True, init_lora_weights="gaussian", modules_to_save=None)
    await adapted.add(base.name, path, "a")
    await adapted.until_adapter("a", READY)


async def test_pickled_weights_are_refused(adapted: Adapted) -> None:
    path = write_adapter(adapted.home / "a")
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    error = await refused(adapted, path)
    assert error.reason is Reason.MODEL_INVALID
    assert "pickle" in error.message
    assert "safe_serialization=True" in error.message


async def test_files_that_can_not_be_read_are_named(adapted: Adapted) -> None:
    base = await adapted.base()
    path = write_adapter(adapted.home / "a")
    weights, config = path / "adapter_model.safetensors", path / "adapter_config.json"
    weights.write_bytes(b"not safetensors")
    assert (await refusal(adapted.add(base.name, path))).metadata == {"file": str(weights)}
    config.write_text("{")
    assert str(config) in (await refusal(adapted.add(base.name, path))).message
    config.write_text(json.dumps({"peft_type": "LORA", "r": 0}))
    assert "whole numbers above 0" in (await refusal(adapted.add(base.name, path))).message
    config.unlink()
    assert (await refusal(adapted.add(base.name, path))).reason is Reason.FILE_MISSING
    assert (await refusal(adapted.add(base.name, adapted.home / "nowhere"))).reason is Reason.FILE_MISSING
    assert (await refusal(adapted.add(base.name, Path()))).metadata == {"field": "ckpt_dir"}


async def test_deleting_a_loading_adapter_is_harmless(adapted: Adapted) -> None:
    base = await adapted.base()
    made = await adapted.add(base.name, write_adapter(adapted.home / "a"), "a")
    await adapted.remove(made.name)
    assert not (await adapted.deployments.ListAdapters(d.ListAdaptersRequest(parent=base.name))).adapters
    await eventually(lambda: not adapted.store.adapters(base.name))


async def test_deleting_an_adapter_several_times_at_once_is_deleting_it_once(adapted: Adapted) -> None:
    """Who asks meanwhile hears that it is deleted, who comes after that, that there is none."""
    base = await adapted.base()
    for number in range(5):
        made = await adapted.add(base.name, write_adapter(adapted.home / f"a{number}"), f"a{number}")
        calls = [adapted.deployments.DeleteAdapter(d.DeleteAdapterRequest(name=made.name)) for _ in range(4)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert d.DeleteAdapterResponse() in ends
        failed = [end for end in ends if isinstance(end, grpc.aio.AioRpcError)]
        assert {end.code() for end in failed} <= {grpc.StatusCode.NOT_FOUND}, failed
    assert not (await adapted.deployments.ListAdapters(d.ListAdaptersRequest(parent=base.name))).adapters


async def test_an_engine_without_adapters_is_told_at_once(adapted: Adapted) -> None:
    adapted.factory.takes_adapters = False
    path = write_model(adapted.home / "toy-chat")
    error = await refusal(adapted.create(model={"model_id_or_path": str(path)}, enable_lora=True))
    assert (error.reason, error.metadata) == (Reason.INVALID_ARGUMENT, {"field": "enable_lora"})
    assert "vLLM" in error.message


async def test_a_directory_whose_name_makes_no_model_id_needs_one(adapted: Adapted) -> None:
    base = await adapted.base()
    path = write_adapter(adapted.home / "an adapter")
    error = await refusal(adapted.add(base.name, path))
    assert (error.reason, error.metadata) == (Reason.INVALID_ARGUMENT, {"field": "served_model_name"})
    assert (await adapted.add(base.name, path, "a")).model_id == "a"


async def test_a_base_and_its_adapters_share_their_engines_limit(tmp_path: Path) -> None:
    adapted = Adapted(tmp_path, FakePace(tokens_per_second=20, answer_tokens=1000), most=1)
    await adapted.start()
    base = await adapted.base()
    await adapted.add(base.name, write_adapter(tmp_path / "a"), "a")
    await adapted.until_adapter("a", READY)
    stream = adapted.generate()
    assert (await stream.read()).HasField("chunk")
    assert (await refusal(adapted.generate(model="a"))).reason is Reason.QUEUE_FULL
    stream.cancel()
    await eventually(lambda: adapted.generator.running == 0)
    assert (await adapted.answer(model="a", max_tokens=1))[1].usage.completion_tokens == 1
    await adapted.stop()
