"""The keyword arguments of the SDK's calls, for type checkers: the fields of the argument classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict


class SftOptions(TypedDict, total=False):
    """See `SftArguments`."""

    model_type: str
    model_id_or_path: str
    dataset: Sequence[str]
    dataset_test_ratio: float | None
    val_dataset: Sequence[str]
    dataset_seed: int | None
    model_name: Sequence[str]
    model_author: Sequence[str]
    system: str | None
    max_length: int | None
    truncation_strategy: Literal["delete", "truncation_left"] | None
    output_dir: str
    resume_from_checkpoint: str
    sft_type: Literal["lora", "full"] | None
    lora_target_modules: Sequence[str]
    lora_rank: int | None
    lora_alpha: float | None
    use_rslora: bool | None
    use_dora: bool | None
    lora_dropout: float | None
    learning_rate: float | None
    num_train_epochs: float | None
    max_steps: int | None
    batch_size: int | None
    gradient_accumulation_steps: int | None
    weight_decay: float | None
    warmup_ratio: float | None
    max_grad_norm: float | None
    lr_scheduler_type: Literal["cosine", "linear", "constant"] | None
    adam_beta1: float | None
    adam_beta2: float | None
    neftune_noise_alpha: float | None
    eval_steps: int | None
    save_steps: int | None
    save_total_limit: int | None
    logging_steps: int | None
    early_stopping_patience: int | None
    dtype: Literal["auto", "bf16", "fp16", "fp32"] | None
    seed: int | None
    base_precision: Literal["auto", "fp8"] | None
    deepspeed: str


class ExportOptions(TypedDict, total=False):
    """See `ExportArguments`."""

    ckpt_dir: str
    model_type: str
    model_id_or_path: str
    merge_lora: bool
    quant_bits: int
    quant_method: str
    dataset: Sequence[str]
    quant_n_samples: int | None
    quant_seqlen: int | None
    dataset_seed: int | None
    output_dir: str
    exist_ok: bool


class LoadOptions(TypedDict, total=False):
    """See `ServingArguments`."""

    ckpt_dir: str
    model_type: str
    model_id_or_path: str
    merge_lora: bool
    infer_backend: Literal["vllm", "transformers", "pt"]
    max_model_len: int | None
    served_model_name: str
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    gpu_memory_utilization: float | None
    tensor_parallel_size: int | None
    enable_lora: bool
    max_loras: int | None
    max_lora_rank: int | None
    engine_args: Sequence[str]


class DeployOptions(LoadOptions, total=False):
    """See `DeployArguments`."""

    port: int
    replicas: int
