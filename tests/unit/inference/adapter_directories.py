"""LoRA adapters on disk, written without PEFT."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from finery_shared.artifacts import Kind, Manifest, hash_files, write_manifest

TOY = {"q_proj": (64, 64), "v_proj": (64, 64)}
"""Features in and out of layers of the model that `harness.write_model` writes."""


def write_adapter(
    path: Path,
    modules: dict[str, tuple[int, int]] | None = None,
    *,
    layers: int = 2,
    rank: int = 4,
    seed: int = 0,
    scale: float = 1.0,
    **config: Any,
) -> Path:
    """An adapter of random weights on the attention of every layer. ``scale`` is the size of what it adds."""
    path.mkdir(parents=True)
    modules = modules or TOY
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "toy-chat",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(modules),
        "bias": "none",
    }
    (path / "adapter_config.json").write_text(json.dumps(described | config))
    generator = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for name, (inputs, outputs) in modules.items():
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{at}.lora_A.weight"] = generator.normal(size=(rank, inputs)) / inputs**0.5
            tensors[f"{at}.lora_B.weight"] = generator.normal(size=(outputs, rank)) * scale
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path / "adapter_model.safetensors")
    return path


def publish_adapter(path: Path, model_type: str = "toy-chat") -> Path:
    """Describe an adapter as a training job would."""
    manifest = Manifest(
        kind=Kind.ADAPTER,
        model_type=model_type,
        base_model="/models/elsewhere",
        template="chatml",
        job="trainingJobs/1",
        recipe={},
        metrics={},
        files=hash_files(path),
    )
    write_manifest(path, manifest)
    return path
