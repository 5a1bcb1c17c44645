"""Arguments of ``finery deploy`` and ``finery_client.deploy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finery_client.arguments.types import Maybe, Switch, Text, Words


@dataclass(frozen=True, kw_only=True)
class ServingArguments:
    """What to load and how: common to deploy and infer."""

    ckpt_dir: Text = ""
    """The checkpoint to serve, for instance …/checkpoint-93-merged-awq-int4."""

    model_type: Text = ""
    """The model to serve when there is no --ckpt_dir, by a name that `finery models` lists."""

    model_id_or_path: Text = ""
    """A directory with that model, or its hub id."""

    merge_lora: Switch = False
    """Merge an adapter into its base model first, and serve the result."""

    infer_backend: Literal["vllm", "transformers", "pt"] = "vllm"
    """The engine: vllm, or the native one, transformers (pt is another name for it)."""

    max_model_len: Maybe[int] = None
    """Longest prompt and answer together, in tokens (default: the model's own, as far as memory allows)."""

    served_model_name: Text = ""
    """The id under which clients ask for the model (default: the model type)."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Arithmetic of the engine."""

    gpu_memory_utilization: Maybe[float] = None
    """Share of the GPU's memory to use (default: the engine's)."""

    tensor_parallel_size: Maybe[int] = None
    """GPUs to split the model over (default: 1)."""

    enable_lora: Switch = False
    """Make room for LoRA adapters, which `finery adapters create` then loads beside the model."""

    max_loras: Maybe[int] = None
    """Adapters that requests of one batch may use (default: 4)."""

    max_lora_rank: Maybe[int] = None
    """Highest rank of an adapter (default: 64)."""

    engine_args: Words = ()
    """Further arguments of the engine as NAME=VALUE, for instance max_num_seqs=64 enable_prefix_caching=false."""


@dataclass(frozen=True, kw_only=True)
class DeployArguments(ServingArguments):
    """Serve a model behind the OpenAI API.

    With `finery up` running the model is added to it and the command ends; without, the command starts what it needs
    and serves until it is interrupted.
    """

    port: int = 8000
    """Port of the API on 127.0.0.1, when this command starts it."""

    replicas: int = 1
    """Inference processes of `finery up` that load the model; 0 is all of them."""
