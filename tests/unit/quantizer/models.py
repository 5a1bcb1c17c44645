"""Tiny random models, adapters and tokenizers on disk, made by the real libraries."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.artifacts import Kind, Manifest, hash_files, write_manifest

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


CONFIGS = {"LlamaForCausalLM": LlamaConfig, "Qwen2ForCausalLM": Qwen2Config}


def tiny_model(seed: int = 0, *, heavy_tails: bool = False, architecture: str = "LlamaForCausalLM") -> PreTrainedModel:
    torch.manual_seed(seed)
    config = CONFIGS[architecture](
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=257,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            parameter.data.mul_(4)
        elif name.endswith(".bias"):
            parameter.data.normal_(std=0.1)
        if heavy_tails and "layernorm" in name:
            parameter.data.mul_(1 + 8 * torch.rand_like(parameter) ** 8)
    return model.requires_grad_(False)


def write_tokenizer(directory: Path) -> None:
    """A byte-level tokenizer: 256 bytes and ChatML's two special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(directory)


def write_model(
    directory: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.bfloat16,
    shard: str = "5GB",
    architecture: str = "LlamaForCausalLM",
) -> Path:
    tiny_model(seed, heavy_tails=True, architecture=architecture).to(dtype).save_pretrained(
        directory, max_shard_size=shard
    )
    write_tokenizer(directory)
    return directory


def whole_model(directory: Path, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """The model of a directory, all of it in memory."""
    return StreamedModel(directory, torch.device("cpu"), dtype).whole()


def write_adapter(directory: Path, base: Path, *, std: float = 0.05, **options: object) -> Path:
    """A random LoRA adapter over `base`, as PEFT saves it, without a manifest."""
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32)
    torch.manual_seed(1)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": LINEARS, "task_type": "CAUSAL_LM", **options})
    tuned = get_peft_model(model, config)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name or "lora_embedding_" in name:
            torch.nn.init.normal_(parameter, std=std)
        elif "modules_to_save" in name or (parameter.requires_grad and "lora_" not in name):
            parameter.data.mul_(1 + torch.rand_like(parameter))
    tuned.save_pretrained(directory)
    (directory / "README.md").unlink(missing_ok=True)
    return directory


def publish_adapter(directory: Path, base: Path, model_type: str, recipe: dict[str, object] | None = None) -> Path:
    """Give an adapter directory the manifest that a training job would have written."""
    manifest = Manifest(
        kind=Kind.ADAPTER,
        model_type=model_type,
        base_model=str(base),
        template="chatml",
        job="trainingJobs/test",
        recipe=recipe or {},
        metrics={},
        files=hash_files(directory),
    )
    write_manifest(directory, manifest)
    return directory
