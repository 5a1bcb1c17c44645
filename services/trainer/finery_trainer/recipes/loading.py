"""Base model, tokenizer and adapter from their directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from finery_trainer.planning import TrainingPlan
from finery_trainer.recipes.attention import register
from finery_trainer.recipes.dropout import quicken_dropout
from finery_trainer.recipes.hardware import device


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model or adapter directory."""
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def load_base(directory: Path, dtype: torch.dtype, places: Mapping[str, Any] | None = None) -> Any:
    """The base model, on the device, with an attention that reads packed rows and everything else.

    With ``places``, the device of each part by module name (see `placement`), it lies on several.
    """
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation=register(),
        use_safetensors=True,
        local_files_only=True,
        device_map=dict(places) if places else None,
    )
    model.config.use_cache = False
    return model if places else model.to(device())


def add_adapter(model: Any, plan: TrainingPlan) -> PeftModel:
    """A fresh adapter in fp32 on the base model, which is frozen."""
    spec = plan.spec
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=spec.lora_rank,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=list(plan.target_modules),
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
    )
    adapted = get_peft_model(model, config)
    quicken_dropout(adapted)
    return adapted


def load_adapter(base: Path, adapter: Path, dtype: torch.dtype, places: Mapping[str, Any] | None = None) -> PeftModel:
    """Base model and adapter as any other tool would load them, for inference."""
    model = PeftModel.from_pretrained(load_base(base, dtype, places), adapter, is_trainable=False)
    return model.eval()
