"""What the files of a LoRA adapter say: whether engines can load it, and what it was made for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelShape

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

_PICKLES = ("adapter_model.bin", "adapter_model.pt")

_IDLE: Mapping[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "modules_to_save": ([],),
    "bias": ("none",),
    "lora_bias": (False,),
    "alora_invocation_tokens": ([],),
    "layer_replication": ([],),
    "trainable_token_indices": ([], {}),
    "use_bdlora": ({},),
    "use_qalora": (False,),
}
"""Features of PEFT that vLLM does not compute (vllm/lora/peft_helper.py), with the values by which they are off."""

_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Values of init_lora_weights that leave the base model as it is; others (PiSSA, OLoRA, …) change it."""

_LONGEST_HEADER = 100 * 2**20
"""In bytes; the library takes no longer one either."""

_TENSOR = re.compile(r".*\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight")


@dataclass(frozen=True)
class AdapterFiles:
    """A directory that holds a LoRA adapter which engines can load."""

    path: Path
    base_model: str
    """The base model's path or hub id, as PEFT noted it."""
    rank: int
    """The highest of its layers."""

    def check_shapes(self, shape: ModelShape) -> None:
        """Raise MODEL_INVALID, naming a tensor, for an adapter of a model of other sizes; DATA_LOSS if unreadable."""
        sizes = _sizes(shape)
        for name, (rows, columns) in _tensors(self.path / WEIGHTS):
            found = _TENSOR.fullmatch(name)
            if found is None or found[2] not in sizes:
                continue
            layer, (inputs, outputs) = int(found[1]), sizes[found[2]]
            if layer >= shape.layers:
                raise _does_not_fit(self, f"{name} is of layer {layer}, and the model has {shape.layers} layers")
            wanted, given = (inputs, columns) if found[3] == "A" else (outputs, rows)
            if wanted != given:
                raise _does_not_fit(self, f"{name} is made for {given} features, and the model has {wanted} there")


def read_adapter(path: Path) -> AdapterFiles:
    """Look at an adapter's directory; no weights are read.

    Raises FILE_MISSING for no directory or none of an adapter, MODEL_INVALID for a whole model, pickled weights and
    files that can't be read, UNSUPPORTED for features of PEFT that engines don't compute.
    """
    config = _config(path)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise _unsupported(path, f"its peft_type is {kind}")
    for name, idle in _IDLE.items():
        if (value := config.get(name)) is not None and value not in idle:
            raise _unsupported(path, f"it has {name} {json.dumps(value)}")
    if (start := config.get("init_lora_weights", True)) not in _PLAIN_STARTS:
        raise _unsupported(path, f"its init_lora_weights {json.dumps(start)} has changed the base model's weights")
    if not (path / WEIGHTS).is_file():
        pickled = next((name for name in _PICKLES if (path / name).is_file()), None)
        if pickled is not None:
            raise FineryError(
                Reason.MODEL_INVALID,
                f"{path / pickled} is a pickle, which can run code when it is loaded. Save the adapter as safetensors: "
                "PEFT's save_pretrained does so with safe_serialization=True.",
                path=str(path),
            )
        raise FineryError(Reason.FILE_MISSING, f"{path} has no {WEIGHTS}. Pass a whole adapter's directory.")
    pattern = config.get("rank_pattern") or {}
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, Mapping) else [pattern])]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise _unreadable(path / CONFIG, "its ranks (r, rank_pattern) are not whole numbers above 0")
    return AdapterFiles(path, str(config.get("base_model_name_or_path") or ""), max(ranks))


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_dir():
        raise FineryError(Reason.FILE_MISSING, f"{path} is not a directory. Pass an adapter's directory.")
    file = path / CONFIG
    if not file.is_file():
        if (path / "config.json").is_file():
            raise FineryError(
                Reason.MODEL_INVALID,
                f"{path} holds a whole model, not an adapter. Deploy it by itself: finery deploy --ckpt_dir {path}, or "
                f"--model_id_or_path {path} if it has no manifest.",
                path=str(path),
            )
        raise FineryError(Reason.FILE_MISSING, f"{path} has no {CONFIG}: it holds no adapter. Pass one's directory.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(file, "it is not JSON") from error
    if not isinstance(config, dict):
        raise _unreadable(file, "it is not a JSON object")
    return config


def _tensors(file: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Names and shapes of the matrices in a safetensors file (the format: huggingface.co/docs/safetensors)."""
    try:
        with file.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            if length > _LONGEST_HEADER:
                raise ValueError(f"its header is of {length} bytes")
            header = json.loads(raw.read(length))
        shapes = {name: said["shape"] for name, said in header.items() if name != "__metadata__"}
        yield from ((name, (shape[0], shape[1])) for name, shape in shapes.items() if len(shape) == 2)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{file} can't be read as safetensors. Restore it from a copy, or make the adapter again."
        raise FineryError(Reason.DATA_LOSS, message, detail=repr(error), file=str(file)) from error


def _sizes(shape: ModelShape) -> Mapping[str, tuple[int, int]]:
    """Features in and out of each linear layer."""
    hidden, inner, width = shape.hidden_size, shape.intermediate_size, shape.attention_width
    keys = width // shape.heads * shape.kv_heads
    return {
        "q_proj": (hidden, width),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (width, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def _does_not_fit(files: AdapterFiles, why: str) -> FineryError:
    made_for = f" It was made for {files.base_model}." if files.base_model else ""
    return FineryError(
        Reason.MODEL_INVALID,
        f"{files.path} is an adapter of another base model: {why}.{made_for} Deploy that one with --enable_lora true, "
        "and add the adapter there.",
        path=str(files.path),
    )


def _unsupported(path: Path, why: str) -> FineryError:
    return FineryError(
        Reason.UNSUPPORTED,
        f"{path} can't be served as an adapter: {why}. Merge it and deploy the result: finery deploy --ckpt_dir {path} "
        "--merge_lora true.",
        path=str(path),
    )


def _unreadable(file: Path, why: str) -> FineryError:
    message = f"{file} can't be read as an adapter's configuration: {why}. Save the adapter again."
    return FineryError(Reason.MODEL_INVALID, message, path=str(file))
