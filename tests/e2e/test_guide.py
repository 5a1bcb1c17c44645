"""docs/guide.md, block by block, on SmolLM2: what the page says it replaces is replaced, and nothing else."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import BIN, MODEL, ROOT, Stack, processes_of

PAGE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(python|shell)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TYPED = "你是谁？\n浙江的省会在哪？\nexit\n"
"""What is typed into `finery infer`."""


@dataclass(frozen=True)
class Block:
    """One block of the page."""

    language: str
    text: str
    line: int

    @property
    def is_client(self) -> bool:
        """Whether it asks what the block before it has deployed."""
        return "from openai" in self.text


BLOCKS = [Block(found[1], found[2], PAGE.count("\n", 0, found.start()) + 2) for found in FENCE.finditer(PAGE)]


def on_smollm2(text: str, quantized: Path, base_url: str) -> str:
    """A block as it runs here."""
    adapter = str(quantized).removesuffix("-merged-awq-int4")
    for pattern, replacement in (
        (r"make env", "make --dry-run env"),  # they are in use
        (r"output/qwen1half-\w+-chat/vx-xxx/checkpoint-xxx", adapter),
        (r'model_type="qwen1half-7b-chat-awq"', f'ckpt_dir="{quantized}"'),
        (r"qwen1half-\w+-chat", MODEL),
        (r"alpaca-(zh|en)#500", r"general-\1#8"),
        (r"#500", "#8"),
        (r"CUDA_VISIBLE_DEVICES=\S+", ""),
        (r"NPROC_PER_NODE=\d", "NPROC_PER_NODE=2"),
        (r"--tensor_parallel_size \d", "--tensor_parallel_size 1"),
        (r"float16", "auto"),  # what this processor is fast in
        (r"(max_model_len[ =])(4096|8192)", r"\g<1>2048"),
        (r"http://localhost:8000/v1", base_url),
        # Else a model of this size may go on until its context is full, and the next question finds no room.
        (r"finery infer", "finery infer --temperature 0 --max_new_tokens 64"),
    ):
        text = re.sub(pattern, replacement, text)
    assert "qwen" not in text.replace("你是qwen吗", ""), "a name that this table does not know"
    return text


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`finery up` without a model."""
    machine = Stack(tmp_path_factory.mktemp("guide"))
    machine.env["PATH"] = f"{BIN}:{machine.env['PATH']}"
    machine.env["FINERY_TRAINER_QUESTIONS_ON_CPU"] = "4"  # what tunings score is asserted elsewhere
    machine.up(1)
    try:
        yield machine
    finally:
        status = machine.stop()
    assert status == 0
    assert processes_of(machine.home) == {}


def run(block: Block, machine: Stack, quantized: Path) -> str:
    """Run a block; what it printed."""
    text = on_smollm2(block.text, quantized, machine.base_url)
    command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euc", text]
    # The page's first block is for where the repository is.
    where = ROOT if "make env" in block.text else machine.work
    done = subprocess.run(
        command, cwd=where, env=machine.env, input=TYPED, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def forget_models(machine: Stack) -> None:
    """What one block leaves deployed must not have the name that the next one takes."""
    for row in machine.finery("deployments", "list").stdout.splitlines()[1:]:
        machine.finery("deployments", "delete", row.split()[3])


@pytest.mark.parametrize("block", BLOCKS, ids=[f"line {block.line}" for block in BLOCKS])
def test_a_block_of_the_guide_runs(block: Block, machine: Stack, quantized: Path) -> None:
    if not block.is_client:
        forget_models(machine)
    printed = run(block, machine, quantized)
    if "finery infer" in block.text:
        assert printed.count("<<< ") == 2
        assert printed.count("-" * 50) == 2
    for mark in re.findall(r'print\(f?"(\w+): ', block.text):
        assert re.search(rf"^{mark}: .", printed, re.MULTILINE), printed
    if "sft" in block.text:
        assert re.search(rf"best_model_checkpoint: .*/{MODEL}/v\d+-.*/checkpoint-\d+$", printed, re.MULTILINE), printed


def test_the_page_has_the_guides_blocks() -> None:
    assert len([block for block in BLOCKS if block.language == "python"]) == 6
    assert len([block for block in BLOCKS if block.language == "shell"]) == 13
