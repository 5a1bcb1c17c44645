"""The job's arguments in the words of transformers' Trainer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from finery_trainer.spec import TrainingSpec

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
CHECKPOINTED_FROM = 1_000_000_000
"""Parameters from which on activations are computed twice rather than kept."""


class OneDeviceArguments(TrainingArguments):  # type: ignore[misc]  # transformers is not checked
    """Arguments of a process that computes on one GPU, or on several as one (`placement`), however many it sees.

    The Trainer would copy the model to every visible GPU (torch.nn.DataParallel); what ranks do better.
    """

    @property
    def n_gpu(self) -> int:
        """GPUs among which the Trainer splits a batch."""
        return min(1, int(super().n_gpu))


def total_steps(spec: TrainingSpec, rows: int) -> int:
    """Optimizer steps of the whole run over that many rows, which the ranks share."""
    if spec.max_steps is not None:
        return spec.max_steps
    batches = math.ceil(rows / (spec.batch_size * spec.nproc_per_node))
    steps_an_epoch = max(1, math.ceil(batches / spec.gradient_accumulation_steps))
    return max(1, math.ceil(spec.num_train_epochs * steps_an_epoch))


def training_arguments(
    spec: TrainingSpec,
    output: Path,
    rows: int,
    *,
    evaluate: bool,
    checkpointing: bool,
    autocast: torch.dtype | None = None,
    ranks: Mapping[str, Any] | None = None,
) -> TrainingArguments:
    """Arguments for a run over ``rows`` training rows.

    ``checkpointing`` has activations computed twice rather than kept. ``autocast`` is the type that parameters in fp32
    are computed in. Nothing is cast for an adapter: the base model has its type already, and PEFT keeps the adapter in
    fp32. ``ranks`` are `parallel.rank_arguments`.
    """
    steps = total_steps(spec, rows)
    return OneDeviceArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=spec.batch_size,
        per_device_eval_batch_size=spec.batch_size,
        gradient_accumulation_steps=spec.gradient_accumulation_steps,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=_SCHEDULES[spec.lr_scheduler_type],
        warmup_steps=math.ceil(spec.warmup_ratio * steps),
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        optim="adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch",
        adam_beta1=spec.adam_beta1,
        adam_beta2=spec.adam_beta2,
        neftune_noise_alpha=None,  # see neftune.py
        seed=spec.seed,
        data_seed=spec.seed,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        eval_strategy="steps" if evaluate else "no",
        eval_steps=spec.eval_steps,
        prediction_loss_only=True,
        metric_for_best_model="eval_loss" if evaluate else None,
        greater_is_better=False if evaluate else None,
        save_strategy="steps",
        save_steps=spec.save_steps,
        save_total_limit=None,  # see CheckpointKeeper
        logging_strategy="steps",
        logging_steps=spec.logging_steps,
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="no",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
        **{"bf16": autocast is torch.bfloat16, "fp16": autocast is torch.float16, **(ranks or {})},
    )
