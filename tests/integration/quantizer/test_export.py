"""Exports by the real service and its real workers, on real weights and on Qwen's vocabulary."""

import json
from pathlib import Path

import pytest

from finery.artifacts.v1.artifacts_pb2 import ArtifactKind
from finery.jobs.v1.jobs_pb2 import JobState
from finery_shared.artifacts import Kind, verify
from tests.fakes.tiny_qwen import write_tiny_qwen
from tests.integration.quantizer.harness import Quantizer
from tests.unit.quantizer.models import publish_adapter, write_adapter, write_model

ROOT = Path(__file__).parents[3]
RECIPE: dict[str, object] = {
    "datasets": ["self-cognition#100", "general-zh#50", "general-en#50"],
    "model_names": ["小黄", "Xiao Huang"],
    "model_authors": ["魔搭", "ModelScope"],
}


@pytest.fixture(autouse=True)
def workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


async def test_smollm2_is_merged_quantized_checked_and_used_again(
    quantizer: Quantizer, smollm2: Path, tmp_path: Path
) -> None:
    checkpoint = write_adapter(tmp_path / "checkpoint-9", smollm2, std=0.003, r=8, lora_alpha=32)
    publish_adapter(checkpoint, smollm2, "smollm2-135m-instruct", RECIPE)
    name = await quantizer.create(ckpt_dir=str(checkpoint), merge_lora=True, quant_bits=4)
    layers = [e.progress.step async for e in quantizer.events(name) if e.progress.phase == "quantizing"]
    job = await quantizer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    assert layers == sorted(layers)
    assert len(layers) > 3
    assert job.output.merged.kind == ArtifactKind.ARTIFACT_KIND_MODEL
    assert job.output.quantized.uri == (tmp_path / "checkpoint-9-merged-awq-int4").as_uri()

    merged = verify(tmp_path / "checkpoint-9-merged")
    assert merged.parent == str(checkpoint)
    assert merged.metrics["merge_divergence"] < 1e-3
    quantized = verify(tmp_path / "checkpoint-9-merged-awq-int4")
    assert quantized.kind is Kind.QUANTIZED_MODEL
    assert quantized.parent == str(tmp_path / "checkpoint-9-merged")
    figures = quantized.metrics
    assert figures["group_size"] == 64
    assert figures["calibration_tokens"] == 1024
    assert figures["perplexity_merged"] < figures["perplexity_quantized"] < figures["perplexity_round_to_nearest"]
    assert figures["perplexity_quantized"] < 1.3 * figures["perplexity_merged"]
    assert figures["smoke_stopped"] > 0
    assert figures["identity_name_asked"] > 0
    assert dict(job.output.figures) == pytest.approx({**merged.metrics, **figures})
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "checkpoint-9-merged-awq-int4" / file).read_bytes() == (smollm2 / file).read_bytes()
    assert not (tmp_path / ".staging").exists()

    again = await quantizer.finished(await quantizer.create(ckpt_dir=str(checkpoint), merge_lora=True, quant_bits=4))
    assert again.status.state == JobState.JOB_STATE_SUCCEEDED
    assert again.output == job.output


@pytest.mark.parametrize(
    ("killed", "done_again"),
    [
        ("merging", ["merges", "goes on after 0 layers"]),
        ("layer", ["goes on after 1 layers"]),
        ("saving", ["goes on after 1 layers"]),
        ("writing", ["goes on after 2 layers"]),
    ],
)
async def test_a_killed_worker_is_tried_again_where_it_was_and_leaves_no_half_artifact(
    faulty_quantizer: Quantizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: str,
    done_again: list[str],
) -> None:
    monkeypatch.setenv("FINERY_TEST_FAULT", killed)
    base = write_tiny_qwen(tmp_path / "tiny-qwen")
    checkpoint = write_adapter(tmp_path / "out" / "checkpoint-2", base, std=0.002)
    publish_adapter(checkpoint, base, "qwen1half-7b-chat", RECIPE)
    name = await faulty_quantizer.create(ckpt_dir=str(checkpoint), merge_lora=True, quant_bits=4)
    told: list[str] = []
    async for event in faulty_quantizer.events(name):
        if event.HasField("log"):
            told.append(event.log.text)
            if "Trying again" in told[-1]:
                assert {path.name for path in (tmp_path / "out").iterdir()} <= {"checkpoint-2", ".staging"}
    assert [text for text in told if text.startswith(("merges", "goes on"))] == done_again
    job = await faulty_quantizer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    assert job.status.attempt == 2
    made = {"checkpoint-2", "checkpoint-2-merged", "checkpoint-2-merged-awq-int4"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == made
    quantized = tmp_path / "out" / "checkpoint-2-merged-awq-int4"
    assert verify(quantized).metrics["group_size"] == 128
    config = json.loads((quantized / "config.json").read_text())
    assert config["rope_theta"] == 1000000.0
    assert config["quantization_config"]["group_size"] == 128


@pytest.mark.parametrize(("fault", "named"), [("scale", "model.layers.1.mlp.down_proj"), ("tokenizer", "tokenizer")])
async def test_a_fault_between_writing_and_checking_fails_the_job(
    faulty_quantizer: Quantizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, named: str
) -> None:
    monkeypatch.setenv("FINERY_TEST_FAULT", fault)
    base = write_model(tmp_path / "tiny-chat")
    job = await faulty_quantizer.finished(await faulty_quantizer.create_for_model(base, tmp_path / "out"))
    assert job.status.state == JobState.JOB_STATE_FAILED
    assert job.status.error.reason == "GATE_FAILED"
    assert named in job.status.error.message
    assert job.status.attempt == 1
    assert not list((tmp_path / "out").iterdir())


async def test_a_cancelled_job_stops_between_layers_and_leaves_nothing(
    quantizer: Quantizer, smollm2: Path, tmp_path: Path
) -> None:
    name = await quantizer.create_for_model(smollm2, tmp_path / "out")
    await quantizer.cancel_when(name, lambda e: e.progress.phase == "quantizing" and e.progress.step > 0)
    job = await quantizer.finished(name)
    assert job.status.state == JobState.JOB_STATE_CANCELLED
    assert job.status.progress.step < 30
    assert not list((tmp_path / "out").iterdir())
