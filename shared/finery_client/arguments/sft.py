"""Arguments of ``finery sft`` and ``finery_client.sft``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finery_client.arguments.types import Maybe, Text, Words


@dataclass(frozen=True, kw_only=True)
class SftArguments:
    """Fine-tune a chat model, and follow the job to its end.

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

    val_dataset: Words = ()
    """Data to evaluate on, in the same form; nothing is split off --dataset then."""

    dataset_seed: Maybe[int] = None
    """Seed for drawing, splitting and shuffling rows (default: 42)."""

    model_name: Words = ()
    """The model's new name, for self-cognition: one, or a Chinese and an English one: 小黄 'Xiao Huang'."""

    model_author: Words = ()
    """The model's new author, for self-cognition: one, or a Chinese and an English one: 魔搭 ModelScope."""

    system: Maybe[str] = None
    """System prompt for rows that have none (default: the chat template's own)."""

    max_length: Maybe[int] = None
    """Longest row in tokens (default: the model's recipe, else 2048)."""

    truncation_strategy: Maybe[Literal["delete", "truncation_left"]] = None
    """What becomes of longer rows: delete leaves them out, truncation_left drops their start (default: delete)."""

    output_dir: str = "output"
    """Where checkpoints go: OUTPUT_DIR/<model_type>/v<N>-<time>/checkpoint-<step>."""

    resume_from_checkpoint: Text = ""
    """A checkpoint to go on from, with its optimizer, schedule, data order and random numbers."""

    sft_type: Maybe[Literal["lora", "full"]] = None
    """Train an adapter, or every parameter (default: lora)."""

    lora_target_modules: Words = ()
    """Layers to adapt: ALL linear ones, DEFAULT (the family's usual ones), or names (default: DEFAULT)."""

    lora_rank: Maybe[int] = None
    """Rank of the adapter (default: 8)."""

    lora_alpha: Maybe[float] = None
    """Scale of the adapter: alpha / rank (default: 32)."""

    use_rslora: Maybe[bool] = None
    """Scale by alpha / sqrt(rank) instead (rsLoRA)."""

    use_dora: Maybe[bool] = None
    """Learn each weight's magnitude apart from its direction (DoRA)."""

    lora_dropout: Maybe[float] = None
    """Dropout before the adapter (default: 0.05)."""

    learning_rate: Maybe[float] = None
    """Peak learning rate (default: the model's recipe, else 1e-4, or 1e-5 for --sft_type full)."""

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

    adam_beta1: Maybe[float] = None
    """Decay of AdamW's mean of gradients (default: 0.9)."""

    adam_beta2: Maybe[float] = None
    """Decay of AdamW's mean of squared gradients (default: 0.95)."""

    neftune_noise_alpha: Maybe[float] = None
    """Strength of the noise on embeddings in training, NEFTune (default: none)."""

    eval_steps: Maybe[int] = None
    """Steps between evaluations (default: 50)."""

    save_steps: Maybe[int] = None
    """Steps between checkpoints (default: 50)."""

    save_total_limit: Maybe[int] = None
    """Checkpoints to keep (default: 2, the last and the best)."""

    logging_steps: Maybe[int] = None
    """Steps between reports of the loss (default: 5)."""

    early_stopping_patience: Maybe[int] = None
    """Evaluations in a row without a lower loss after which training ends (default: none)."""

    dtype: Maybe[Literal["auto", "bf16", "fp16", "fp32"]] = None
    """Arithmetic of the base model (default: auto)."""

    seed: Maybe[int] = None
    """Seed for weights, dropout and data order (default: 42)."""

    base_precision: Maybe[Literal["auto", "fp8"]] = None
    """Precision of the frozen base's matrix products (default: auto, as --dtype). fp8 needs a GPU that has it; it is
    faster, and rounds what the base computes: compare the score before you keep it."""

    deepspeed: Text = ""
    """DeepSpeed's configuration: default-zero2, default-zero3, or a JSON file."""
