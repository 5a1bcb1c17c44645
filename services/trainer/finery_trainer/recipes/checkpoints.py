"""Published checkpoints: plain PEFT or model directories, with the base model's tokenizer and a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from finery_shared.artifacts import Kind, Manifest, disk_errors, hash_files, write_manifest
from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.weights import copy_like

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
MODEL_FILES = ("config.json", "generation_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def run_directory(output_dir: Path, model_type: str, now: datetime) -> Path:
    """``<output_dir>/<model_type>/v<N>-<YYYYMMDD-HHMMSS>``; N counts from 0 and goes up by one with every run."""
    parent = output_dir / model_type
    taken = [path.name[1:].partition("-")[0] for path in parent.glob("v*-*")] if parent.is_dir() else []
    number = max((int(text) + 1 for text in taken if text.isdecimal()), default=0)
    return parent / f"v{number}-{now:%Y%m%d-%H%M%S}"


def tokenizer_files(directory: Path) -> dict[str, Path]:
    """The files that make up a model's tokenizer, by name."""
    return {name: directory / name for name in TOKENIZER_FILES if (directory / name).is_file()}


def assemble_adapter(saved: Path, base: Path, target: Path) -> None:
    """Copy a saved adapter and the base model's own tokenizer files, verbatim, into a new directory."""
    with disk_errors(target):
        target.mkdir(parents=True)
        for name in ADAPTER_FILES:
            shutil.copyfile(saved / name, target / name)
        _copy_tokenizer(base, target)


def assemble_model(saved: Path, base: Path, target: Path) -> None:
    """Copy a saved model's weights, in the base's type, and the base's own configuration and tokenizer, verbatim.

    A configuration that transformers 5 writes is misread by transformers 4.
    """
    with disk_errors(target):
        target.mkdir(parents=True)
        for name in MODEL_FILES:
            if (base / name).is_file():
                shutil.copyfile(base / name, target / name)
        copy_like(saved, base, target)
        _copy_tokenizer(base, target)


def _copy_tokenizer(base: Path, target: Path) -> None:
    for name, path in tokenizer_files(base).items():
        shutil.copyfile(path, target / name)


def describe(target: Path, kind: Kind, plan: TrainingPlan, job: str, metrics: Mapping[str, float]) -> None:
    """Write the manifest of an assembled and checked directory."""
    spec = plan.model.spec
    manifest = Manifest(
        kind=kind,
        model_type=spec.model_type,
        base_model=str(plan.model.path),
        template=spec.template,
        job=job,
        recipe=plan.spec.model_dump(mode="json") | {"target_modules": list(plan.target_modules)},
        metrics=dict(metrics),
        files=hash_files(target),
    )
    with disk_errors(target):
        write_manifest(target, manifest)
