"""DeepSpeed's configuration (deepspeed.ai/docs/config-json): the two Finery brings, and files of a user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from finery_shared.errors import FineryError, Reason, invalid
from finery_trainer.spec import TrainingSpec

AUTO = "auto"

_ZERO2: dict[str, Any] = {"stage": 2, "contiguous_gradients": True, "overlap_comm": False}
_ZERO3: dict[str, Any] = {
    "stage": 3,
    "contiguous_gradients": True,
    "overlap_comm": False,
    "reduce_bucket_size": AUTO,
    "stage3_prefetch_bucket_size": AUTO,
    "stage3_param_persistence_threshold": AUTO,
    "stage3_gather_16bit_weights_on_model_save": True,
}
_DEFAULTS: dict[str, dict[str, Any]] = {"default-zero2": _ZERO2, "default-zero3": _ZERO3}


def file_of(name: str) -> Path | None:
    """The file of a user's own that a configuration's name stands for. Raises INVALID_ARGUMENT."""
    if not name or name in _DEFAULTS:
        return None
    if not Path(name).is_absolute():
        raise invalid("deepspeed", f"there is no {name}; choose {' or '.join(_DEFAULTS)}, or name a file by its path.")
    return Path(name)


def read(spec: TrainingSpec) -> dict[str, Any]:
    """The configuration that a spec names, its batches and clipping those of the spec.

    "auto" is left for what depends on the model. Raises INVALID_ARGUMENT and FILE_MISSING.
    """
    name = spec.deepspeed
    file = file_of(name)
    config: dict[str, Any] = _load(file) if file else {"zero_optimization": deepcopy(_DEFAULTS[name])}
    stage = _section(config, "zero_optimization").get("stage", 0)
    if stage not in (0, 1, 2, 3):
        raise invalid("deepspeed", f"{name}: zero_optimization.stage is {stage!r}; choose 0, 1, 2 or 3.")
    _set_all(config, spec)
    for section in ("optimizer", "scheduler"):
        for key, value in config.pop(section, {}).get("params", {}).items():
            if value != AUTO:
                raise invalid(
                    "deepspeed",
                    f"{name}: {section}.params.{key} is {value!r}, but optimizer and schedule are set by "
                    f"--learning_rate and its kin: remove the section {section}, or set the value to {AUTO!r}.",
                )
    if stage == 3:
        # Without it no rank would have a whole tensor to save.
        config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return config


def stage(config: Mapping[str, Any]) -> int:
    """The ZeRO stage: 0 shards nothing, 1 the optimizer, 2 the gradients too, 3 the parameters too."""
    return int(_section(config, "zero_optimization").get("stage", 0))


def complete(config: Mapping[str, Any], *, dtype: str, hidden_size: int, full: bool) -> dict[str, Any]:
    """The configuration with nothing left open. ``dtype`` is the one the base model is loaded in: bf16, fp16 or fp32.

    DeepSpeed's mixed precision casts all parameters and keeps fp32 copies of those that are trained. It is switched on
    where that is needed: under stage 3, whose shards have one type, and where 16-bit parameters themselves are trained.
    Otherwise the adapter stays in fp32 as it is. Raises INVALID_ARGUMENT.
    """
    done = deepcopy(dict(config))
    mixed = stage(done) == 3 or full
    for name in ("bf16", "fp16"):
        section = done.setdefault(name, {})
        wanted = section.get("enabled", AUTO)
        if wanted == AUTO:
            section["enabled"] = mixed and dtype == name
        elif wanted and dtype != name:
            raise invalid("deepspeed", f"{name}.enabled is true, but --dtype is {dtype}: set it to {AUTO!r}.")
    sizes = {
        "reduce_bucket_size": hidden_size * hidden_size,
        "stage3_prefetch_bucket_size": int(0.9 * hidden_size * hidden_size),
        "stage3_param_persistence_threshold": 10 * hidden_size,
    }
    zero = done.get("zero_optimization", {})
    for key, size in sizes.items():
        if zero.get(key) == AUTO:
            zero[key] = size
    return done


def _load(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        message = f"{file} can't be read: name a DeepSpeed configuration, default-zero2 or default-zero3."
        raise FineryError(Reason.FILE_MISSING, message, field="deepspeed") from error
    except ValueError as error:
        raise invalid("deepspeed", f"{file} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise invalid("deepspeed", f"{file} must hold a JSON object.")
    return config


def _set_all(config: dict[str, Any], spec: TrainingSpec) -> None:
    rows = spec.batch_size * spec.gradient_accumulation_steps * spec.nproc_per_node
    wanted = {
        "train_micro_batch_size_per_gpu": (spec.batch_size, "--batch_size"),
        "gradient_accumulation_steps": (spec.gradient_accumulation_steps, "--gradient_accumulation_steps"),
        "train_batch_size": (rows, "--batch_size × --gradient_accumulation_steps × --nproc_per_node"),
        "gradient_clipping": (spec.max_grad_norm, "--max_grad_norm"),
    }
    for key, (value, flag) in wanted.items():
        given = config.get(key, AUTO)
        if given not in (AUTO, value):
            message = f"{spec.deepspeed}: {key} is {given!r}, but {flag} is {value}: set it to {AUTO!r}."
            raise invalid("deepspeed", message)
        config[key] = value


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name, {})
    return section if isinstance(section, Mapping) else {}
