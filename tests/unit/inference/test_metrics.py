"""What the inference service shows to Prometheus."""

import asyncio
import urllib.request
from pathlib import Path

import pytest

from finery.inference.v1 import deployments_pb2 as d
from finery_inference.deployments.restart import RestartPolicy
from finery_inference.engines.fake import FakePace
from finery_shared.errors import FineryError, Reason
from finery_shared.log import logger
from finery_shared.metrics import MetricsEndpoint
from tests.fakes.samples import Samples, parse, value
from tests.unit.inference.harness import Harness, eventually, refusal

GENERATE = "/finery.inference.v1.InferenceService/Generate"


async def scrape(harness: Harness) -> Samples:
    """What an endpoint over the harness's registry shows."""
    endpoint = MetricsEndpoint("127.0.0.1:0", harness.registry, logger("test"))
    address = endpoint.start("FINERY_INFERENCE_METRICS_LISTEN")

    def get() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    try:
        return parse(await asyncio.to_thread(get))
    finally:
        await endpoint.stop()


async def test_engines_and_calls(tmp_path: Path, model_dir: Path) -> None:
    harness = Harness(tmp_path, FakePace(tokens_per_second=20), most=1)
    await harness.start()
    await harness.deploy(model_dir)
    call = harness.generate("hi", max_tokens=1000, ignore_eos=True)
    await anext(aiter(call))
    assert (await refusal(harness.generate("hi"))).reason is Reason.QUEUE_FULL
    samples = await scrape(harness)
    assert value(samples, "finery_inference_deployments", state="ready") == 1
    assert value(samples, "finery_inference_deployments", state="failed") == 0
    assert value(samples, "finery_inference_requests_running", model="m") == 1
    assert value(samples, "finery_inference_requests_waiting", model="m") == 0
    assert value(samples, "finery_inference_kv_cache_usage_ratio", model="m") == 0
    generated = value(samples, "finery_inference_generated_tokens_total", model="m")
    assert generated is not None and generated >= 1
    assert value(samples, "finery_rpc_streams_in_flight", method=GENERATE) == 1
    assert value(samples, "finery_rpc_refusals_total", method=GENERATE, reason="QUEUE_FULL") == 1
    assert value(samples, "finery_rpc_calls_total", method=GENERATE, code="RESOURCE_EXHAUSTED") == 1
    call.cancel()
    await eventually(lambda: harness.generator.running == 0)
    samples = await scrape(harness)
    assert value(samples, "finery_inference_requests_running", model="m") == 0
    assert value(samples, "finery_rpc_streams_in_flight", method=GENERATE) == 0
    assert value(samples, "finery_rpc_calls_total", method=GENERATE, code="CANCELLED") == 1
    assert value(samples, "finery_rpc_call_duration_seconds_count", method=GENERATE) == 2
    await harness.stop()


async def test_restarts(tmp_path: Path, model_dir: Path) -> None:
    harness = Harness(tmp_path, policy=RestartPolicy(first=0.01))
    await harness.start()
    await harness.deploy(model_dir)
    assert value(await scrape(harness), "finery_inference_engine_restarts_total", model="m") == 0
    harness.factory.engines[0].die()
    await eventually(lambda: len(harness.factory.engines) == 2)
    await harness.until("m", d.DEPLOYMENT_STATE_READY)
    assert value(await scrape(harness), "finery_inference_engine_restarts_total", model="m") == 1
    await harness.stop()


async def test_a_deployment_without_an_engine_has_a_state_alone(tmp_path: Path, model_dir: Path) -> None:
    harness = Harness(tmp_path)
    harness.factory.failures = [FineryError(Reason.ENGINE_FAILED, "No.")]
    await harness.start()
    await harness.create(model={"model_id_or_path": str(model_dir)}, served_model_name="m")
    await harness.until("m", d.DEPLOYMENT_STATE_FAILED)
    samples = await scrape(harness)
    assert value(samples, "finery_inference_deployments", state="failed") == 1
    assert value(samples, "finery_inference_requests_running", model="m") is None
    await harness.stop()


async def test_a_busy_port_is_refused_with_the_setting(harness: Harness) -> None:
    first = MetricsEndpoint("127.0.0.1:0", harness.registry, logger("test"))
    second = MetricsEndpoint(first.start("X"), harness.registry, logger("test"))
    with pytest.raises(FineryError, match="Set FINERY_INFERENCE_METRICS_LISTEN") as caught:
        second.start("FINERY_INFERENCE_METRICS_LISTEN")
    assert caught.value.reason is Reason.PORT_IN_USE
    await first.stop()
