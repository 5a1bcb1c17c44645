"""The registry's Qwen family through sft, export and deploy: a tiny random model with Qwen's real vocabulary."""

from pathlib import Path

from tests.e2e.conftest import Stack
from tests.fakes.tiny_qwen import write_tiny_qwen


def test_qwen_is_tuned_exported_and_served(stack: Stack, tmp_path: Path) -> None:
    base = tmp_path / "tiny-qwen"
    write_tiny_qwen(base)
    tuned = stack.finery(
        *("sft", "--model_type", "qwen1half-7b-chat", "--model_id_or_path", str(base)),
        *("--dataset", "self-cognition#8", "general-zh#8", "--max_steps", "2", "--batch_size", "2"),
        *("--lora_target_modules", "ALL", "--model_name", "小黄", "Xiao Huang", "--model_author", "魔搭", "ModelScope"),
        *("--output_dir", str(tmp_path / "output")),
    )
    checkpoint = tuned.stdout.strip().splitlines()[-1].partition(": ")[2]
    assert "/qwen1half-7b-chat/v0-" in checkpoint
    stack.finery(
        "export", "--ckpt_dir", checkpoint, "--quant_bits", "4", "--quant_method", "awq", "--merge_lora", "true"
    )
    quantized = f"{checkpoint}-merged-awq-int4"
    stack.finery("deploy", "--ckpt_dir", quantized, "--max_model_len", "512", "--served_model_name", "tiny")
    client = stack.client()
    assert {m.id for m in client.models.list().data} >= {"tiny"}
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "你好"}], max_tokens=8, temperature=0
    )
    assert answer.usage
    assert 1 <= answer.usage.completion_tokens <= 8
    deployed = next(line for line in stack.finery("deployments", "list").stdout.splitlines() if "tiny" in line)
    name = next(word for word in deployed.split() if word.startswith("deployments/"))
    stack.finery("deployments", "delete", name)
    assert "tiny" not in {m.id for m in client.models.list().data}
