"""Put fused layers into a model that they can compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finery_trainer.recipes.fused.functions import LayerParts
from finery_trainer.recipes.fused.groups import LinearGroup, UnfusableError, adapter_of
from finery_trainer.recipes.fused.head import LossHead
from finery_trainer.recipes.fused.layer import FusedLayer
from finery_trainer.recipes.fused.operations import HeadNorm, Operations
from finery_trainer.recipes.fused.packing import attention_for
from finery_trainer.recipes.fused.products import Float8Linear, Float8Product, FrozenProduct, PlainProduct, share
from finery_trainer.recipes.fused.torch_operations import TorchOperations

ARCHITECTURES = {"llama", "mistral", "qwen2", "qwen3"}
"""config.model_type of models with the layers that are meant here."""

HEAD_CHUNK = 2048
"""Positions whose logits exist at the same time."""

MAX_RANK = 128
_HEAD_SIZES = {64, 128, 256}


@dataclass(frozen=True)
class FusedModel:
    """What `fuse` put into a model."""

    layers: tuple[FusedLayer, ...]
    head: LossHead
    float8: bool
    bytes_a_token: int
    """What one token keeps for the backward pass, over all layers, without checkpointing."""

    bytes_checkpointed: int
    """The same with checkpointing: the layers' inputs."""

    head_bytes: int
    """Logits of a chunk, and what is made of them."""

    def checkpoint(self, on: bool) -> None:
        """Whether layers are computed again in the backward pass."""
        for layer in self.layers:
            layer.checkpointing = on


def fuse(model: Any, *, float8: bool = False, operations: Operations | None = None) -> FusedModel:
    """Replace the decoder layers and the head of a PEFT LoRA model, in place; needs what `unfusable` finds no fault in.

    ``float8``: keep the layers' frozen weights as e4m3, twice, and free them in their own type. Raises UnfusableError.
    """
    reason = unfusable(model)
    if reason:
        raise UnfusableError(reason)
    causal = model.get_base_model()
    decoder, config = causal.model, causal.config
    device = causal.lm_head.weight.device
    operations = operations or operations_for(device, causal.lm_head.weight.dtype)
    attention = attention_for(device)
    fused = []
    for i, original in enumerate(decoder.layers):
        parts = _parts(original, operations, config, float8=float8)
        window = getattr(original.self_attn, "sliding_window", None)
        fused.append(FusedLayer(original, parts, attention, window))
        decoder.layers[i] = fused[i]
        if float8 and device.type == "cuda":
            torch.cuda.empty_cache()  # a layer's weights of the old type give way to the next one's of the new
    causal.lm_head = LossHead(causal.lm_head, operations, HEAD_CHUNK)
    size = causal.lm_head.weight.element_size()
    return FusedModel(
        layers=tuple(fused),
        head=causal.lm_head,
        float8=float8,
        bytes_a_token=_bytes_a_token(config, size),
        bytes_checkpointed=config.num_hidden_layers * config.hidden_size * size,
        head_bytes=2 * HEAD_CHUNK * config.vocab_size * size,
    )


def unfusable(model: Any) -> str:
    """Why a model can't be fused; empty if it can."""
    try:
        _check(model)
    except UnfusableError as error:
        return str(error)
    return ""


def operations_for(device: torch.device, dtype: torch.dtype) -> Operations:
    """Triton kernels on a GPU, torch elsewhere."""
    if device.type != "cuda":
        return TorchOperations(dtype)
    from finery_trainer.recipes.fused.triton_operations import TritonOperations

    return TritonOperations(dtype)


def _check(model: Any) -> None:
    if not hasattr(model, "peft_config"):
        raise UnfusableError("it isn't a model with a LoRA adapter")
    causal = model.get_base_model()
    config = causal.config
    if config.model_type not in ARCHITECTURES:
        raise UnfusableError(f"layers of {config.model_type} models aren't known")
    if config.hidden_act not in ("silu", "swish"):
        raise UnfusableError(f"the activation is {config.hidden_act}")
    if not isinstance(causal.lm_head, nn.Linear) or causal.lm_head.bias is not None:
        raise UnfusableError("the output head is no plain frozen linear")
    if causal.lm_head.weight.requires_grad or causal.model.embed_tokens.weight.requires_grad:
        raise UnfusableError("embeddings or the output head are trained")
    devices = {parameter.device for parameter in causal.parameters()}
    if len(devices) != 1:
        raise UnfusableError("it lies on several devices")
    cuda = devices.pop().type == "cuda"
    if cuda and causal.lm_head.weight.dtype not in (torch.bfloat16, torch.float16):
        raise UnfusableError(f"kernels compute in bf16 or fp16, the model is in {causal.lm_head.weight.dtype}")
    adapters = []
    for layer in causal.model.layers:
        attention = layer.self_attn
        if cuda and attention.head_dim not in _HEAD_SIZES:
            raise UnfusableError(f"heads of size {attention.head_dim} aren't known")
        found = [adapter_of(module) for module in _linears(layer)]
        if any(base.weight.requires_grad for base, _ in found):
            raise UnfusableError("base weights are trained")
        adapters += [adapter for _, adapter in found if adapter is not None]
    if not adapters:
        raise UnfusableError("no layer has an adapter")
    if len({(a.rank, a.scale, a.dropout) for a in adapters}) != 1:
        raise UnfusableError("the adapters differ in rank, scale or dropout")
    if adapters[0].rank > MAX_RANK:
        raise UnfusableError(f"rank {adapters[0].rank} is above {MAX_RANK}")


def _linears(layer: Any) -> list[Any]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


def _parts(layer: Any, operations: Operations, config: Any, *, float8: bool) -> LayerParts:
    attention, mlp = layer.self_attn, layer.mlp
    q_norm, k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    return LayerParts(
        operations=operations,
        qkv=_group(attention, ("q_proj", "k_proj", "v_proj"), 0, operations, float8=float8),
        o=_group(attention, ("o_proj",), 3, operations, float8=float8),
        gate_up=_group(mlp, ("gate_proj", "up_proj"), 4, operations, float8=float8),
        down=_group(mlp, ("down_proj",), 6, operations, float8=float8),
        input_norm=layer.input_layernorm.weight.detach(),
        mlp_norm=layer.post_attention_layernorm.weight.detach(),
        eps=layer.input_layernorm.variance_epsilon,
        head_size=attention.head_dim,
        q_norm=_head_norm(q_norm),
        k_norm=_head_norm(k_norm),
    )


def _head_norm(module: Any) -> HeadNorm | None:
    return None if module is None else HeadNorm(module.weight.detach(), module.variance_epsilon)


def _group(parent: Any, names: tuple[str, ...], first: int, operations: Operations, *, float8: bool) -> LinearGroup:
    pairs = [adapter_of(getattr(parent, name)) for name in names]
    outs = tuple(base.weight.shape[0] for base, _ in pairs)
    weight, bias = share([base for base, _ in pairs])
    product: FrozenProduct = PlainProduct(weight, bias)
    if float8:
        eight = Float8Product(weight, bias, operations)
        product = eight
        end = 0
        for name, out in zip(names, outs, strict=True):
            start, end = end, end + out
            _replace(parent, name, Float8Linear(eight, start, end, weight.dtype))
    return LinearGroup(product, outs, tuple(adapter for _, adapter in pairs), first)


def _replace(parent: Any, name: str, linear: nn.Module) -> None:
    module = getattr(parent, name)
    if isinstance(module, nn.Linear):
        setattr(parent, name, linear)
    else:
        module.base_layer = linear


def _bytes_a_token(config: Any, size: int) -> int:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * head
    kept = 4 * config.hidden_size + heads + 2 * config.intermediate_size
    if config.model_type == "qwen3":
        kept += (config.num_attention_heads + config.num_key_value_heads) * head
    return int(config.num_hidden_layers * (kept * size + 4 * config.num_attention_heads + 8))
