"""What a user gets wrong: told at once, with the remedy, and nothing half-done is left behind."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, MODEL, Stack

NAMES = ["--model_name", "Xiao Huang", "--model_author", "ModelScope"]


def refused(stack: Stack, *arguments: str) -> str:
    done = stack.finery(*arguments, check=False, timeout=60)
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model_type", "smollm2-135m-instrukt", "--dataset", "general-en"], MODEL),
        (["--model_type", MODEL, "--dataset", "self-cognitoin"], "self-cognition"),
        (["--model_type", MODEL, "--dataset", "/nowhere/rows.jsonl"], "/nowhere/rows.jsonl"),
        (["--model_type", MODEL, "--dataset", "self-cognition"], "model_name"),
        (["--model_type", MODEL, "--dataset", "general-en", "--batch_size", "0"], "batch_size"),
        (["--model_type", MODEL, "--dataset", "general-en", "--lernin_rate", "1"], "learning_rate"),
        (["--model_type", "qwen1half-7b-chat", "--dataset", "general-en"], "--model_id_or_path"),
    ],
)
def test_a_bad_sft_is_refused_at_once(stack: Stack, tmp_path: Path, arguments: list[str], told: str) -> None:
    assert told in refused(stack, "sft", *arguments, "--output_dir", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (['{"query": "a", "response": "b"}', '{"strange": 1}'], "rows.jsonl, line 2"),
        (['{"query": "I am {{NAME}}", "response": "b"}'], "{{NAME}}"),
        ([], "rows.jsonl"),
    ],
)
def test_bad_rows_are_refused_with_file_and_line(stack: Stack, tmp_path: Path, rows: list[str], told: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f"{row}\n" for row in rows))
    options = ["--model_type", MODEL, "--dataset", str(file), "--output_dir", str(tmp_path / "out")]
    assert told in refused(stack, "sft", *options)
    assert not (tmp_path / "out").exists()


def test_checkpoints_without_manifest_and_with_wrong_checksums(stack: Stack, tmp_path: Path, quantized: Path) -> None:
    adapter = Path(str(quantized).removesuffix("-merged-awq-int4"))
    plain = tmp_path / "plain"
    shutil.copytree(adapter, plain, ignore=shutil.ignore_patterns("manifest.json"))
    export = ["export", "--merge_lora", "true", "--quant_bits", "4", "--ckpt_dir"]
    assert "manifest.json" in refused(stack, *export, str(plain))
    damaged = tmp_path / "damaged"
    shutil.copytree(adapter, damaged)
    config = json.loads((damaged / "adapter_config.json").read_text())
    (damaged / "adapter_config.json").write_text(json.dumps({**config, "r": 16}))
    assert "adapter_config.json" in refused(stack, *export, str(damaged))
    assert "adapter_config.json" in refused(stack, "deploy", "--merge_lora", "true", "--ckpt_dir", str(damaged))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "plain"]


def test_a_model_id_that_is_taken(stack: Stack, quantized: Path) -> None:
    assert "--served_model_name" in refused(stack, "deploy", "--ckpt_dir", str(quantized), "--replicas", "0")


def test_a_port_in_use(stack: Stack) -> None:
    gateway = stack.find("gateway")
    assert gateway is not None
    env = {**stack.env, "FINERY_HOME": str(stack.work / "other-home"), "FINERY_GATEWAY_LISTEN": gateway.address}
    done = subprocess.run(
        [str(BIN / "finery"), "up"], cwd=stack.work, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert gateway.address.rpartition(":")[2] in done.stderr
    assert "FINERY_GATEWAY_LISTEN" in done.stderr


def on_a_small_disk(stack: Stack, tmp_path: Path, mebibytes: int, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script whose directory ``small`` is a real file system of that size, with private services.

    It is there in a mount namespace of the script's own; what lies on it at the end is listed.
    """
    (tmp_path / "small").mkdir()
    mounted = (
        f"mount -t tmpfs -o size={mebibytes}m tmpfs small && PATH={BIN}:$PATH && {script}; status=$?; "
        "find small -type f -printf 'left: %P\\n'; exit $status"
    )
    env = {**stack.env, "FINERY_HOME": str(tmp_path / "home")}
    command = ["unshare", "--mount", "--map-root-user", "bash", "-c", mounted]
    return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_a_disk_without_room_for_a_checkpoint_fails_the_job_before_it_trains(stack: Stack, tmp_path: Path) -> None:
    options = f"--model_type {MODEL} --dataset general-en#16 --max_steps 1 --batch_size 2 --output_dir small/out"
    done = on_a_small_disk(stack, tmp_path, 3, f"finery sft {options}")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "A checkpoint needs about" in " ".join(done.stderr.split()), "as is said before anything is written"
    assert "Traceback" not in done.stderr
    assert "checkpoint-" not in done.stdout


def test_a_disk_that_fills_up_while_a_model_is_merged_fails_the_job_and_loses_nothing(
    stack: Stack, quantized: Path, tmp_path: Path
) -> None:
    adapter = Path(str(quantized).removesuffix("-merged-awq-int4"))
    script = f"cp -r {adapter} small/ && finery export --ckpt_dir small/{adapter.name} --merge_lora true"
    done = on_a_small_disk(stack, tmp_path, 150, script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "No space is left on the file system" in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr
    left = {line.removeprefix("left: ").partition("/")[0] for line in done.stdout.splitlines() if "left: " in line}
    assert left == {adapter.name}
