"""The sizes of a decoder-only transformer, and the quantization group size that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finery_shared.errors import FineryError, Reason

GROUP_SIZES = (128, 64, 32)
"""AWQ group sizes that the kernels support, best first."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes as in a Hugging Face config: features, layers, heads, vocabulary entries."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    head_dim: int | None = None

    @property
    def attention_width(self) -> int:
        """Features that enter the attention's output projection."""
        return self.heads * (self.head_dim or self.hidden_size // self.heads)

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Input dimension of each kind of linear layer: q/k/v/gate/up, o, down."""
        return (self.hidden_size, self.attention_width, self.intermediate_size)

    @property
    def group_size(self) -> int | None:
        """The largest supported group size that divides every input dimension; None if none does."""
        return next((size for size in GROUP_SIZES if all(width % size == 0 for width in self.input_sizes)), None)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Read the sizes from a parsed config.json; raises MODEL_INVALID naming the keys that are missing."""
        wanted = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        missing = [key for key in wanted if not isinstance(config.get(key), int)]
        if missing:
            raise FineryError(
                Reason.MODEL_INVALID,
                f"config.json lacks {', '.join(missing)}: use a complete Hugging Face model directory.",
            )
        return cls(
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            vocab_size=config["vocab_size"],
            head_dim=config.get("head_dim"),
        )


def group_size_for(config: Mapping[str, Any]) -> int:
    """AWQ's group size for a parsed config.json.

    Raises UNSUPPORTED when none of 128, 64 and 32 divides the input dimension of every linear layer.
    """
    shape = ModelShape.from_config(config)
    if shape.group_size is None:
        raise FineryError(
            Reason.UNSUPPORTED,
            f"AWQ needs a group size of 128, 64 or 32 that divides every layer's input, and none divides "
            f"{', '.join(map(str, shape.input_sizes))}: this model can't be quantized with AWQ; serve it unquantized.",
        )
    return shape.group_size
