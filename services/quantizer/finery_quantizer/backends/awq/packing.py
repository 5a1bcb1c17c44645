"""AutoAWQ's GEMM layout: eight int4 codes of neighbouring output channels in one int32."""

from dataclasses import dataclass

import torch
from torch import Tensor

from finery_quantizer.backends.awq.rounding import Grid, decode, encode

PACK = 8
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A quantized linear as it is saved.

    `qweight` int32 [in, out / 8], `qzeros` int32 [in / group, out / 8], `scales` [in / group, out] in storage dtype.
    """

    qweight: Tensor
    qzeros: Tensor
    scales: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """By the names that follow the linear's own in a checkpoint."""
        return {"qweight": self.qweight, "qzeros": self.qzeros, "scales": self.scales}

    def to(self, device: torch.device) -> "PackedWeight":
        """The same on `device`."""
        return PackedWeight(self.qweight.to(device), self.qzeros.to(device), self.scales.to(device))


def pack_words(codes: Tensor) -> Tensor:
    """Codes [rows, out] -> int32 words [rows, out / 8], AutoAWQ's interleaved order."""
    columns = codes.to(torch.int32).unflatten(-1, (-1, PACK))
    words = torch.zeros_like(columns[..., 0])
    for position, column in enumerate(_ORDER):
        words |= columns[..., column] << 4 * position
    return words


def unpack_words(words: Tensor) -> Tensor:
    """Int32 words [rows, out / 8] -> codes 0..15 [rows, out]."""
    order = torch.tensor(_ORDER, device=words.device)
    shifts = torch.arange(0, 4 * PACK, 4, device=words.device)
    codes = (words.unsqueeze(-1) >> shifts) & 15
    return codes[..., order.argsort()].flatten(-2)


def pack(weight: Tensor, grid: Grid, storage: torch.dtype) -> PackedWeight:
    """`weight` [out, in] on `grid`, packed; scales in `storage`, to which the grid must already be rounded."""
    codes = encode(weight, grid).flatten(1)
    return PackedWeight(
        qweight=pack_words(codes.t()).contiguous(),
        qzeros=pack_words(grid.zero.t()).contiguous(),
        scales=grid.scale.t().to(storage).contiguous(),
    )


def unpack(packed: PackedWeight) -> Tensor:
    """The fp32 weight [out, in] that a packed one stands for: what a serving kernel multiplies by."""
    scale, zero = packed.scales.float().t(), unpack_words(packed.qzeros).float().t()
    codes = unpack_words(packed.qweight).float().t()
    return decode(codes.unflatten(1, (scale.shape[1], -1)).contiguous(), Grid(scale, zero))
