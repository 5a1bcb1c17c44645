"""Arguments of ``finery sft`` and ``finery_client.sft``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finery_client.arguments.types import Maybe, Text, Words


@dataclass(frozen=True, kw_only=True)
class SftArguments:
    """Fine-tune a chat model with LoRA, and follow the job to its end.

    CUDA_VISIBLE_DEVICES and NPROC_PER_NODE say which GPUs the job takes and how many ranks it starts on them.
    """

    model_type: Text = ""
    """The model to tune, by a name that `finery models` lists, for instance qwen1half-7b-chat."""

    model_id_or_path: Text = ""
    """A directory with the model, or its hub id. Alone it is enough for any chat model of a known architecture."""

    dataset: Words = ()
    """Data to train on: names, files or hub ids, each with #N for N rows: alpaca-zh#500 self-cognition#500 my.jsonl."""

    dataset_test_ratio: Maybe[float] = None
    """Share of the rows that is set aside for evaluation (default: 0.01)."""

    dataset_seed: Maybe[int] = None
    """Seed for drawing, splitting and shuffling rows (default: 42)."""

    model_name: Words = ()
    """The model's new name, for self-cognition: one, or a Chinese and an English one: 小黄 'Xiao Huang'."""

    model_author: Words = ()
    """The model's new author, for self-cognition: one, or a Chinese and an English one: 魔搭 ModelScope."""

    system: Maybe[str] = None
    """System prompt for rows that have none (default: the chat template's own)."""

    max_length: Maybe[int] = None
    """Longest row in tokens; longer ones are left out (default: the model's recipe, else 2048)."""

    output_dir: str = "output"
    """Where checkpoints go: OUTPUT_DIR/<model_type>/v<N>-<time>/checkpoint-<step>."""

    lora_target_modules: Words = ()
    """Layers to adapt: ALL linear ones, DEFAULT (the family's usual ones), or names (default: DEFAULT)."""

    lora_rank: Maybe[int] = None
    """Rank of the adapter (default: 8)."""

    lora_alpha: Maybe[float] = None
    """Scale of the adapter: alpha / rank (default: 32)."""

    lora_dropout: Maybe[float] = None
    """Dropout before the adapter (default: 0.05)."""

    learning_rate: Maybe[float] = None
    """Peak learning rate (default: the model's recipe, else 1e-4)."""

    num_train_epochs: Maybe[float] = None
    """Passes over the data (default: the model's recipe, else 1)."""

    max_steps: Maybe[int] = None
    """Optimizer steps after which to stop."""

    batch_size: Maybe[int] = None
    """Rows in one forward pass (default: the model's recipe, else 1)."""

    gradient_accumulation_steps: Maybe[int] = None
    """Forward passes in one optimizer step (default: what makes 16 rows of them)."""

    weight_decay: Maybe[float] = None
    """Decoupled weight decay (default: 0.1)."""

    warmup_ratio: Maybe[float] = None
    """Share of the steps in which the learning rate rises (default: 0.05)."""

    max_grad_norm: Maybe[float] = None
    """Largest norm of the gradients (default: 1)."""

    lr_scheduler_type: Maybe[Literal["cosine", "linear", "constant"]] = None
    """Schedule after warm-up (default: cosine)."""

    eval_steps: Maybe[int] = None
    """Steps between evaluations (default: 50)."""

    save_steps: Maybe[int] = None
    """Steps between checkpoints (default: 50)."""

    save_total_limit: Maybe[int] = None
    """Checkpoints to keep (default: 2, the last and the best)."""

    logging_steps: Maybe[int] = None
    """Steps between reports of the loss (default: 5)."""

    dtype: Maybe[Literal["auto", "bf16", "fp16", "fp32"]] = None
    """Arithmetic of the base model (default: auto)."""

    seed: Maybe[int] = None
    """Seed for weights, dropout and data order (default: 42)."""

    deepspeed: Text = ""
    """Sharding over several GPUs. Not served yet: leave it out, or use NPROC_PER_NODE alone."""
