"""config.json as transformers 4 understands it, also when transformers 5 wrote it.

transformers 5 renamed what transformers 4 then misses without a word: `rope_parameters` (`rope_theta`, `rope_scaling`)
and `dtype` (`torch_dtype`). The file itself is never changed: it is converted in memory and the result is asserted.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PretrainedConfig

from finery_shared.errors import FineryError, Reason


def read_config_json(directory: Path) -> dict[str, Any]:
    """The content of config.json."""
    content: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return content


def to_transformers_4(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration in transformers 4's words. Raises UNSUPPORTED for what has no such words."""
    converted = dict(raw)
    if "dtype" in converted:
        converted.setdefault("torch_dtype", converted.pop("dtype"))
    rope = converted.pop("rope_parameters", None)
    if rope is None:
        return converted
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise FineryError(
            Reason.UNSUPPORTED, "config.json: rope_parameters differ by kind of layer; this can't be quantized yet."
        )
    scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
    if "rope_theta" in rope:
        converted.setdefault("rope_theta", rope["rope_theta"])
    if scaling.get("rope_type", scaling.get("type", "default")) != "default":
        converted.setdefault("rope_scaling", scaling)
    return converted


def load_config(directory: Path) -> PretrainedConfig:
    """The model's configuration, with rotary base and dtype asserted against the file.

    Raises MODEL_INVALID when the library read something else than the file says.
    """
    raw = read_config_json(directory)
    converted = to_transformers_4(raw)
    config = AutoConfig.for_model(**converted)
    theta = raw.get("rope_theta", (raw.get("rope_parameters") or {}).get("rope_theta"))
    dtype = raw.get("torch_dtype", raw.get("dtype"))
    _assert(directory, "rope_theta", theta, getattr(config, "rope_theta", None))
    _assert(directory, "torch_dtype", dtype and getattr(torch, dtype), config.torch_dtype)
    return config


def _assert(directory: Path, field: str, said: object, read: object) -> None:
    if said is not None and said != read:
        raise FineryError(
            Reason.MODEL_INVALID,
            f"{directory}/config.json says {field} = {said}, but it would be used as {read}: "
            "save the model with transformers 4.51 or 5.x again.",
            field=field,
        )
