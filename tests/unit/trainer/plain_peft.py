"""A base model and adapters as someone loads them who has transformers and PEFT, and nothing of Finery's."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

_PROGRAM = """
import json, sys
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

ids, output, base, *adapters = sys.argv[1:]
logits = {}
for adapter in ("", *adapters):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    with torch.inference_mode():
        logits[adapter] = model.eval()(torch.tensor([json.loads(ids)])).logits
save_file(logits, output)
print(sorted(name for name in sys.modules if name.startswith("finery")))
"""


def plain_logits(work: Path, ids: Sequence[int], base: Path, *adapters: Path) -> list[torch.Tensor]:
    """Logits in fp32, (1, T, vocabulary), of the base model, then of it with each adapter; by a process of its own."""
    output = work / "logits.safetensors"
    command = [sys.executable, "-I", "-c", _PROGRAM, json.dumps(list(ids)), *map(str, (output, base, *adapters))]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    logits = load_file(output)
    return [logits[name] for name in ("", *map(str, adapters))]
