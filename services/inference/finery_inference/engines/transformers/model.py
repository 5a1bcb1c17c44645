"""A model and its tokenizer from a directory, and a batch that generates with them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from finery_inference.engines.cpu_dtype import on_cpu
from finery_inference.engines.kv_cache import bytes_per_token, kv_cache_bytes, machine_memory
from finery_inference.engines.protocol import EngineConfig
from finery_inference.engines.transformers.batch import Batch, Tell, batching
from finery_inference.engines.transformers.messages import Load
from finery_shared.processor import multiplies_bf16


@dataclass(frozen=True)
class LoadedBatch:
    """What a worker serves."""

    batch: Batch
    max_model_len: int
    vocab_size: int
    on_gpu: bool


def load(command: Load, tell: Tell) -> LoadedBatch:
    """Load what is asked for, on the GPU if there is one. Nothing is fetched, and no code of the model's is run."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    config = command.config
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        config = on_cpu(config, machine_memory(), bf16=multiplies_bf16(), int4=True)
        torch.set_num_threads(command.threads or max(1, len(os.sched_getaffinity(0)) - 1))
    model = AutoModelForCausalLM.from_pretrained(
        config.model,
        dtype=config.dtype if config.dtype == "auto" else getattr(torch, config.dtype),
        attn_implementation=config.extra.get("attn_implementation", "sdpa"),
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    model = model.to("cuda" if on_gpu else "cpu").eval()
    described = model.config.get_text_config()
    length = config.max_model_len or int(described.max_position_embeddings)
    tokens = None
    if not on_gpu:
        cache = command.kv_cache_bytes or kv_cache_bytes(config, machine_memory())
        tokens = cache // bytes_per_token(described.to_dict(), str(model.dtype).removeprefix("torch."))
    options = batching(tokens, length, config.gpu_memory_utilization, config.extra)
    batch = Batch(model, _tokenizer(config), options, tell)
    return LoadedBatch(batch, length, int(described.vocab_size), on_gpu)


def _tokenizer(config: EngineConfig) -> Tokenizer:
    """The part of the model's tokenizer that can decode token by token. Raises ValueError where there is none."""
    tokenizer = AutoTokenizer.from_pretrained(config.model, local_files_only=True, trust_remote_code=False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(f"its tokenizer, {type(tokenizer).__name__}, is not one of the tokenizers library")
    return backend
