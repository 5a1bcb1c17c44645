import asyncio
import json
import threading
import uuid
from pathlib import Path

import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.deployments.model import DeploymentSpec
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.engines.fake import FakePace
from finery_shared.artifacts import Kind
from finery_shared.artifacts.manifest import READ_AT_ONCE
from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelSpec
from tests.unit.inference.harness import Harness, add_manifest, eventually, refusal, write_artifact, write_model


async def test_a_deployment_loads_and_tells_of_it(harness: Harness, model_dir: Path) -> None:
    made = await harness.create(model={"model_id_or_path": str(model_dir)}, max_model_len=512)
    assert (made.state, made.model_id, made.model_type) == (d.DEPLOYMENT_STATE_LOADING, "toy-chat", "toy-chat")
    assert made.name.startswith("deployments/")
    ready = await harness.until("toy-chat", d.DEPLOYMENT_STATE_READY)
    assert (ready.name, ready.max_model_len, ready.spec.max_model_len) == (made.name, 512, 512)
    assert ready.spec.model.model_id_or_path == str(model_dir)
    got = await harness.deployments.GetDeployment(d.GetDeploymentRequest(name=made.name))
    assert got.deployment == ready


async def test_a_watch_begins_with_everything_and_beats(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    call = harness.deployments.WatchDeployments(d.WatchDeploymentsRequest())
    first = await call.read()
    beat = await asyncio.wait_for(call.read(), 5)
    assert [deployment.model_id for deployment in first.deployments] == ["m"]
    assert beat == first
    await harness.create(model={"model_id_or_path": str(model_dir)}, served_model_name="n")
    after = await asyncio.wait_for(call.read(), 5)
    assert after.revision > first.revision
    assert [deployment.model_id for deployment in after.deployments] == ["m", "n"]
    call.cancel()


async def test_health_follows_the_deployments(harness: Harness, model_dir: Path) -> None:
    assert await harness.health("")
    assert await harness.health("finery.inference.v1.DeploymentService")
    assert not await harness.health()
    deployment = await harness.deploy(model_dir)
    assert await harness.health()
    await harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=deployment.name))
    assert not await harness.health()


async def test_a_model_id_is_taken_once(harness: Harness, model_dir: Path) -> None:
    await harness.create(model={"model_id_or_path": str(model_dir)})
    for spec in ({}, {"served_model_name": "toy-chat"}):
        error = await refusal(harness.create(model={"model_id_or_path": str(model_dir)}, **spec))
        assert error.reason is Reason.MODEL_TAKEN
        assert "--served_model_name" in error.message
    assert len(await harness.list()) == 1


async def test_a_repeated_request_makes_nothing_new(harness: Harness, model_dir: Path) -> None:
    model, request_id = {"model_id_or_path": str(model_dir)}, str(uuid.uuid4())
    made = await harness.create(request_id, model=model)
    assert (await harness.create(request_id.upper(), model=model)).name == made.name
    error = await refusal(harness.create(request_id, model=model, max_model_len=64))
    assert error.reason is Reason.REQUEST_ID_REUSED
    assert (await refusal(harness.create("not-a-uuid", model=model))).metadata == {"field": "request_id"}
    assert len(await harness.list()) == 1


async def test_an_engine_goes_by_its_other_name_too(harness: Harness, model_dir: Path) -> None:
    chosen = [(await harness.deploy(model_dir, name or "none", infer_backend=name)).spec for name in ("pt", "")]
    assert [spec.infer_backend for spec in chosen] == ["transformers", "vllm"]
    error = await refusal(harness.create(model={"model_id_or_path": str(model_dir)}, infer_backend="ggml"))
    assert "vllm, transformers" in error.message


async def test_pages_are_oldest_first(harness: Harness, model_dir: Path) -> None:
    for name in "abcde":
        await harness.create(model={"model_id_or_path": str(model_dir)}, served_model_name=name)
    names, token = [], ""
    while True:
        request = d.ListDeploymentsRequest(page_size=2, page_token=token)
        response = await harness.deployments.ListDeployments(request)
        names.append([deployment.model_id for deployment in response.deployments])
        if not (token := response.next_page_token):
            break
    assert names == [["a", "b"], ["c", "d"], ["e"]]
    error = await refusal(harness.deployments.ListDeployments(d.ListDeploymentsRequest(page_token="x")))
    assert error.reason is Reason.PAGE_TOKEN_INVALID


async def test_delete_ends_running_requests(harness: Harness, model_dir: Path) -> None:
    deployment = await harness.deploy(model_dir)
    call = harness.generate(max_tokens=2000, ignore_eos=True)
    assert (await anext(aiter(call))).HasField("chunk")
    await harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=deployment.name))
    assert (await refusal(call)).reason is Reason.ENGINE_DEAD
    for request in (
        harness.deployments.GetDeployment(d.GetDeploymentRequest(name=deployment.name)),
        harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=deployment.name)),
        harness.generate(),
    ):
        assert (await refusal(request)).reason is Reason.DEPLOYMENT_NOT_FOUND
    assert not harness.store.all()


async def test_an_artifact_is_looked_over_at_once(harness: Harness) -> None:
    path = write_artifact(harness.home / "checkpoint-9-merged")
    made = await harness.create(ckpt_dir=str(path))
    assert made.model_id == "toy-chat"
    await harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=made.name))
    (path / "model.safetensors").write_bytes(b"weigh")
    (path / "model.safetensors").write_bytes(b"weightz")
    error = await refusal(harness.create(ckpt_dir=str(path)))
    assert error.reason is Reason.DATA_LOSS
    assert error.metadata == {"file": str(path / "model.safetensors")}
    (path / "manifest.json").unlink()
    error = await refusal(harness.create(ckpt_dir=str(path)))
    assert error.reason is Reason.MANIFEST_MISSING
    assert "--model_id_or_path" in error.message
    assert not harness.store.all()


async def test_weights_are_verified_while_they_are_loaded_and_not_before(harness: Harness) -> None:
    path = write_model(harness.home / "checkpoint-9-merged")
    weights = path / "model.safetensors"
    weights.write_bytes(bytes(READ_AT_ONCE + 1))
    add_manifest(path)
    assert (await harness.create(ckpt_dir=str(path), served_model_name="whole")).error.reason == ""
    await harness.until("whole", d.DEPLOYMENT_STATE_READY)
    weights.write_bytes(bytes(READ_AT_ONCE) + b"x")
    made = await harness.create(ckpt_dir=str(path), served_model_name="damaged")
    assert made.state == d.DEPLOYMENT_STATE_LOADING
    failed = await harness.until("damaged", d.DEPLOYMENT_STATE_FAILED)
    assert failed.error.reason == "DATA_LOSS"
    assert str(weights) in failed.error.message


class SlowHub:
    """A hub that gives a model when it is told to."""

    name = "Slow"

    def __init__(self, model: Path) -> None:
        self._model = model
        self.asked, self.give = threading.Event(), threading.Event()

    def id_of(self, spec: ModelSpec) -> str | None:
        return None

    def cached(self, repo_id: str) -> Path | None:
        return None

    def holds(self, path: Path) -> bool:
        return False

    def check(self, repo_id: str) -> None:
        """It answers."""

    def download(self, repo_id: str) -> Path:
        self.asked.set()
        if not self.give.wait(30) or repo_id != "owner/toy":
            raise FineryError(Reason.MODEL_UNREACHABLE, "no", cause="Slow: it has none")
        return self._model


async def test_a_model_is_fetched_while_it_is_loaded_and_others_load_meanwhile(tmp_path: Path) -> None:
    path = write_model(tmp_path / "toy-chat")
    hub = SlowHub(path)
    harness = Harness(tmp_path, hubs=[hub])
    await harness.start()
    slow = await harness.create(model={"model_id_or_path": "owner/toy"})
    assert (slow.model_id, slow.state) == ("toy", d.DEPLOYMENT_STATE_LOADING)
    left = await harness.create(model={"model_id_or_path": "owner/other"})
    assert await asyncio.to_thread(hub.asked.wait, 5)
    await harness.deploy(path, "local")
    await harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=left.name))
    hub.give.set()
    await harness.until("toy", d.DEPLOYMENT_STATE_READY)
    none = await harness.create(model={"model_id_or_path": "owner/none"})
    failed = await harness.until("none", d.DEPLOYMENT_STATE_FAILED)
    assert failed.name == none.name
    assert failed.error.reason == "MODEL_UNREACHABLE"
    assert "Slow: it has none" in failed.error.message
    await harness.stop()


@pytest.mark.parametrize("by_manifest", [True, False])
async def test_an_adapter_is_refused_with_the_remedy(harness: Harness, by_manifest: bool) -> None:
    path = write_artifact(harness.home / "checkpoint-9", Kind.ADAPTER if by_manifest else Kind.MODEL)
    if not by_manifest:
        (path / "adapter_config.json").write_text("{}")
    error = await refusal(harness.create(ckpt_dir=str(path)))
    assert error.reason is Reason.MODEL_INVALID
    assert f"finery export --ckpt_dir {path} --merge_lora true" in error.message


async def test_only_allowed_directories_are_read(harness: Harness, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write_artifact(tmp_path_factory.mktemp("elsewhere") / "checkpoint-9-merged")
    for spec in ({"ckpt_dir": str(path)}, {"model": {"model_id_or_path": str(path)}}):
        error = await refusal(harness.create(**spec))
        assert error.reason is Reason.PATH_NOT_ALLOWED
        assert "FINERY_INFERENCE_ALLOWED_ROOTS" in error.message


async def test_paths_that_only_the_caller_understands_are_refused(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_model(elsewhere / "toy-chat")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(elsewhere))
    for model in ("~/toy-chat", "./toy-chat", f"../{elsewhere.name}/toy-chat"):
        error = await refusal(harness.create(model={"model_id_or_path": model}))
        assert (error.reason, error.metadata) == (Reason.INVALID_ARGUMENT, {"field": "model_id_or_path"})
    assert (await refusal(harness.create(ckpt_dir="toy-chat"))).metadata == {"field": "ckpt_dir"}


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"max_model_len": 4096}, "max_model_len"),
        ({"max_model_len": 0}, "max_model_len"),
        ({"dtype": "int3"}, "dtype"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size"),
        ({"infer_backend": "ggml"}, "infer_backend"),
        ({"served_model_name": "two words"}, "served_model_name"),
        ({"engine_args": {"max_num_seqs": "4"}}, "engine_args"),
        ({"engine_args": {"max_num_seqs": "{"}}, "engine_args"),
    ],
)
async def test_a_bad_field_is_named(harness: Harness, model_dir: Path, spec: dict[str, object], field: str) -> None:
    error = await refusal(harness.create(model={"model_id_or_path": str(model_dir)}, **spec))
    assert error.reason is Reason.INVALID_ARGUMENT
    assert error.metadata == {"field": field}
    assert not harness.store.all()


async def test_unknown_models_are_refused(harness: Harness) -> None:
    error = await refusal(harness.create(model={"model_type": "smollm-135m-instruct"}))
    assert error.reason is Reason.MODEL_NOT_FOUND
    assert "smollm2-135m-instruct" in error.message
    error = await refusal(harness.create(model={"model_id_or_path": str(harness.home / "nowhere")}))
    assert error.reason is Reason.FILE_MISSING
    assert (await refusal(harness.create())).metadata == {"field": "spec"}


async def test_a_model_that_cannot_load_says_why(harness: Harness, model_dir: Path) -> None:
    harness.factory.failures.append(FineryError(Reason.ENGINE_FAILED, "The model is too large: choose a smaller one."))
    await harness.create(model={"model_id_or_path": str(model_dir)}, served_model_name="m")
    failed = await harness.until("m", d.DEPLOYMENT_STATE_FAILED)
    assert (failed.error.reason, failed.error.message[:22]) == ("ENGINE_FAILED", "The model is too large")
    error = await refusal(harness.generate())
    assert error.reason is Reason.DEPLOYMENT_NOT_READY
    assert "too large" in error.message
    assert not await harness.health()


async def test_a_loading_model_is_not_ready(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakePace(start_seconds=30))
    await harness.start()
    path = write_model(tmp_path / "toy-chat")
    deployment = await harness.create(model={"model_id_or_path": str(path)}, served_model_name="m")
    error = await refusal(harness.generate())
    assert error.reason is Reason.DEPLOYMENT_NOT_READY
    assert "loading" in error.message
    await harness.deployments.DeleteDeployment(d.DeleteDeploymentRequest(name=deployment.name))
    await asyncio.wait_for(harness.stop(), 5)
    assert not harness.factory.engines


async def test_a_dead_engine_is_started_again(harness: Harness, model_dir: Path) -> None:
    await harness.deploy(model_dir)
    call = harness.generate(max_tokens=2000, ignore_eos=True)
    await anext(aiter(call))
    harness.factory.engines[0].die()
    assert (await refusal(call)).reason is Reason.ENGINE_DEAD
    assert (await refusal(harness.generate())).reason in (Reason.ENGINE_DEAD, Reason.DEPLOYMENT_NOT_READY)
    await eventually(lambda: len(harness.factory.engines) == 2)
    await harness.until("m", d.DEPLOYMENT_STATE_READY)
    assert await harness.health()
    assert (await harness.answer(max_tokens=4))[1].usage.completion_tokens == 4


async def test_health_is_off_while_an_engine_is_dead(tmp_path: Path) -> None:
    harness = Harness(tmp_path, policy=RestartPolicy(first=60))
    await harness.start()
    await harness.deploy(write_model(tmp_path / "toy-chat"))
    assert await harness.health()
    harness.factory.engines[0].die()
    failed = await harness.until("m", d.DEPLOYMENT_STATE_FAILED)
    assert failed.error.reason == "ENGINE_DEAD"
    assert not await harness.health()
    await harness.stop()


async def test_an_engine_that_always_dies_is_given_up(harness: Harness, model_dir: Path) -> None:
    dead = FineryError(Reason.ENGINE_DEAD, "The engine has ended.")
    harness.factory.failures.extend([dead] * 5)
    await harness.create(model={"model_id_or_path": str(model_dir)}, served_model_name="m")
    await eventually(lambda: len(harness.factory.failures) == 2)
    await asyncio.sleep(0.5)
    assert len(harness.factory.failures) == 2
    failed = (await harness.list())[0]
    assert failed.state == d.DEPLOYMENT_STATE_FAILED
    error = await refusal(harness.generate())
    assert error.reason is Reason.ENGINE_DEAD
    assert error.message == failed.error.message
    assert "3 times in a row" in error.message
    assert "`finery deployments delete`" in error.message
    assert "try again" not in error.message


def test_the_back_off_doubles_up_to_its_limit() -> None:
    policy = RestartPolicy(first=0.5, longest=3)
    assert [policy.delay(failures) for failures in (1, 2, 3, 4, 50)] == [0.5, 1, 2, 3, 3]


async def test_deployments_load_again_after_a_restart(tmp_path: Path) -> None:
    path, revision = write_model(tmp_path / "toy-chat"), 0
    first = Harness(tmp_path)
    await first.start()
    made = await first.deploy(path)
    async for snapshot in first.deployments.WatchDeployments(d.WatchDeploymentsRequest()):
        revision = snapshot.revision
        break
    await first.stop()
    second = Harness(tmp_path)
    await second.start()
    again = await second.until("m", d.DEPLOYMENT_STATE_READY)
    assert again == made
    async for snapshot in second.deployments.WatchDeployments(d.WatchDeploymentsRequest()):
        assert snapshot.revision > revision
        break
    await second.stop()


async def test_what_was_stored_is_verified_again(tmp_path: Path) -> None:
    path = write_artifact(tmp_path / "checkpoint-9-merged")
    first = Harness(tmp_path)
    await first.start()
    await first.create(ckpt_dir=str(path))
    await first.stop()
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"vocab_size": 1}))
    second = Harness(tmp_path)
    await second.start()
    failed = await second.until("toy-chat", d.DEPLOYMENT_STATE_FAILED)
    assert failed.error.reason == "DATA_LOSS"
    assert "config.json" in failed.error.message
    await second.stop()


async def test_a_stopping_process_finishes_what_it_began(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakePace(tokens_per_second=100))
    await harness.start()
    await harness.deploy(write_model(tmp_path / "toy-chat"))
    watch = harness.deployments.WatchDeployments(d.WatchDeploymentsRequest())
    assert not (await watch.read()).draining
    call = harness.generate(max_tokens=50, ignore_eos=True)
    await anext(aiter(call))
    stopping = asyncio.create_task(harness.process.stop())
    while not (await watch.read()).draining:
        pass
    assert not await harness.health()
    assert (await refusal(harness.generate())).reason is Reason.SERVICE_UNAVAILABLE
    events = [event async for event in call]
    assert events[-1].complete.usage.completion_tokens == 50
    await asyncio.wait_for(stopping, 5)
    assert not harness.factory.engines[0].alive
    await harness.channel.close()


async def test_a_creation_during_the_start_makes_one_engine(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    spec = DeploymentSpec(model_id_or_path=str(write_model(tmp_path / "toy-chat")), served_model_name="m")
    creating = asyncio.create_task(harness.manager.create(spec))
    await asyncio.sleep(0.1)
    await harness.start()
    await creating
    await harness.until("m", d.DEPLOYMENT_STATE_READY)
    assert len(await harness.list()) == len(harness.factory.engines) == 1
    await harness.stop()
