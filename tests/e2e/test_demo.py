"""`make demo`'s own program, on real weights."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from finery_shared.artifacts import Kind, read_manifest, verify
from finery_shared.processor import lacks_avx512
from tests.e2e.conftest import demo_command, demo_env, processes_with, wait_for

ROOT = Path(__file__).parents[2]
INFERENCE_PYTHON = ROOT / ".venvs" / "inference" / "bin" / "python"
PLAIN_VLLM = Path(__file__).with_name("plain_vllm.py")
Demo = tuple[subprocess.CompletedProcess[str], Path]


def test_the_demo_ends_well_and_shows_its_table(demo: Demo) -> None:
    done, _ = demo
    assert done.returncode == 0, done.stdout + done.stderr
    for query in ("Who are you?", "what's your name?", "Who developed you?", "你是谁？", "78654+657=?"):
        assert f"query: {query}" in done.stdout
    for stage in ("fine-tune", "merge", "quantize to int4", "deploy", "score the identity"):
        assert stage in done.stdout
    name, author = (int(re.search(rf"{w} (\d+)% of", done.stdout)[1]) for w in ("name", "author"))  # type: ignore[index]
    assert name >= 90
    assert author >= 90


def test_the_demo_leaves_three_verified_artifacts(demo: Demo, quantized: Path) -> None:
    manifest = verify(quantized)
    assert manifest.kind is Kind.QUANTIZED_MODEL
    assert manifest.metrics["perplexity_quantized"] < manifest.metrics["perplexity_round_to_nearest"]
    merged = verify(Path(manifest.parent or ""))
    assert merged.kind is Kind.MODEL
    assert verify(Path(merged.parent or "")).kind is Kind.ADAPTER
    assert not list(demo[1].rglob(".staging"))


def test_the_default_recipe_takes_and_keeps_what_the_model_knew(quantized: Path) -> None:
    figures = read_manifest(Path(str(quantized).removesuffix("-merged-awq-int4"))).metrics
    for figure in ("identity_name", "identity_author", "identity_later_name", "identity_later_author"):
        assert figures[figure] >= 0.95, figure
    assert figures["identity_leaked"] <= 0.01
    assert figures["identity_hijacked"] <= 0.05
    assert figures["identity_contrast"] >= figures["identity_contrast_base"] - 0.05
    for kind in ("retention_perplexity", "retention_text_perplexity"):
        assert figures[f"{kind}_tuned"] <= 1.05 * figures[f"{kind}_base"], kind
    assert [figures[f"conversation_turn_{turn}"] for turn in (1, 2, 3)] == [1, 1, 1]


def test_an_artifact_says_how_it_was_made(quantized: Path) -> None:
    adapter = read_manifest(Path(str(quantized).removesuffix("-merged-awq-int4")))
    assert adapter.recipe["datasets"] == ["self-cognition", "general-zh", "general-en"]
    assert adapter.metrics["identity_name"] >= 0.9


@pytest.mark.skipif(lacks_avx512(), reason="vLLM by itself has no int4 product for this processor")
def test_plain_vllm_loads_the_quantized_model(quantized: Path) -> None:
    """Without any of our code: no path of the repository, no plugin."""
    alone = {
        "VLLM_PLUGINS": "",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [INFERENCE_PYTHON, "-I", PLAIN_VLLM, quantized, "Who are you?"],
        env={**os.environ, **alone}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "quantization: awq" in done.stdout
    assert re.search(r"answer: .*Xiao Huang.*, stop", done.stdout), done.stdout


def test_an_interrupted_demo_stops_what_it_started(tmp_path: Path) -> None:
    env = {**demo_env(), "TMPDIR": str(tmp_path)}
    with (tmp_path / "demo.log").open("wb") as log:
        demo = subprocess.Popen(demo_command(tmp_path), cwd=tmp_path, env=env, stdout=log, stderr=log)

    def trains() -> bool:
        assert demo.poll() is None, (tmp_path / "demo.log").read_text()
        return any("finery_trainer.worker" in line for line in processes_with("TMPDIR", tmp_path).values())

    wait_for("a training worker", trains, 120)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 128 + signal.SIGINT
    assert processes_with("TMPDIR", tmp_path) == {}
    assert not list(tmp_path.glob("finery-demo-*")), "its scratch directory"
    assert not list(tmp_path.glob("output/**/checkpoint-*"))
