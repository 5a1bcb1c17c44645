"""The fused layer's operations as Triton kernels, for CUDA; products that are large or thin are cuBLAS's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor
from typing_extensions import override

from finery_trainer.recipes.fused.kernels.gated import swiglu_backward_kernel, swiglu_kernel
from finery_trainer.recipes.fused.kernels.heads import heads_backward_kernel, heads_kernel
from finery_trainer.recipes.fused.kernels.low_rank import add_down_kernel, down_backward_kernel, down_kernel
from finery_trainer.recipes.fused.kernels.norms import norm_backward_kernel, norm_kernel, residual_kernel
from finery_trainer.recipes.fused.kernels.rows import cross_entropy_kernel, quantize_kernel
from finery_trainer.recipes.fused.operations import Down, Dropout, GatedGradients, HeadNorm, Operations, Rotation, Up

ROW_TILE = 64
"""Token counts are multiples of this."""

_COLUMN_TILE = 128
_TILE = {"ROWS": 64, "COLUMNS": 128, "num_warps": 4}
_GATED = {"ROWS": 32, "COLUMNS": 64, "num_warps": 4, "num_stages": 2}
_GATED_BACKWARD = {"ROWS": 64, "COLUMNS": 64, "num_warps": 4, "num_stages": 3}
_HEADS = {"ROWS": 32, "num_warps": 4}
_HEADS_BACKWARD = {"ROWS": 32, "num_warps": 2, "num_stages": 2}
_UP_BACKWARD = {"ROWS": 64, "num_warps": 4, "num_stages": 2}
_PROGRAMS = 1024
"""Programs that keep a whole GPU busy: where a kernel sums over rows, they are cut into so many shares."""


class TritonOperations(Operations):
    """See `Operations`. Results repeat themselves: no atomics, sums in a fixed order."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    @override
    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        rows, n = x.shape
        out, inverse = torch.empty_like(x), x.new_empty(rows, dtype=torch.float32)
        block = triton.next_power_of_2(n)
        norm_kernel[(rows,)](x, weight, out, inverse, n, eps, BLOCK=block, num_warps=_warps(block))
        return out, inverse

    @override
    def norm_backward(
        self, g: Tensor, down: Down | None, x: Tensor, inverse: Tensor, weight: Tensor, residual: Tensor
    ) -> Tensor:
        rows, n = x.shape
        out = torch.empty_like(x)
        block = triton.next_power_of_2(n)
        whole = self.add_down(g, down)
        norm_backward_kernel[(rows,)](
            whole, x, inverse, weight, residual.contiguous(), out, n, BLOCK=block, num_warps=_warps(block)
        )
        return out

    @override
    def residual(self, x: Tensor, y: Tensor, up: Up | None) -> Tensor:
        if up is None:
            return x + y
        rows, n = x.shape
        out = torch.empty_like(x)
        residual_kernel[_tiles(rows, n)](
            x, y, up.own, up.b, out, n, up.h.stride(0), up.scale, R=up.rank, BLOCK_R=_block(up.rank),
            **_TILE,
        )  # fmt: skip
        return out

    @override
    def heads(self, y: Tensor, up: Up | None, rotation: Rotation | None, norm: HeadNorm | None) -> Tensor:
        if up is None and rotation is None and norm is None:
            return y
        rows, heads, size = y.shape
        out = y if norm is None else y.new_empty(y.shape)
        heads_kernel[(rows // _HEADS["ROWS"], heads)](
            y, *_up(up, y), *_angles(rotation, y), y if norm is None else norm.weight, out, heads * size,
            y.stride(0), _stride(up), out.stride(0), _scale(up), 0.0 if norm is None else norm.eps,
            **_shape(up), ROTATE=rotation is not None, NORM=norm is not None, SIZE=size, **_HEADS,
        )  # fmt: skip
        return out

    @override
    def heads_backward(
        self,
        g: Tensor,
        y: Tensor | None,
        up: Up | None,
        rotation: Rotation | None,
        norm: HeadNorm | None,
        out: Tensor,
        out_h: Tensor | None,
    ) -> Tensor | None:
        if g.stride(1) != g.shape[2] or g.stride(2) != 1:
            g = g.contiguous()
        return self._heads_backward(g, y, up, rotation, norm, out, out_h)

    def _heads_backward(
        self,
        g: Tensor,
        y: Tensor | None,
        up: Up | None,
        rotation: Rotation | None,
        norm: HeadNorm | None,
        out: Tensor | None,
        out_h: Tensor | None,
    ) -> Tensor | None:
        rows, heads, size = g.shape
        shares = _shares(rows, heads)
        y = g if y is None else y
        single = {"dtype": torch.float32}
        part_h = g.new_empty((heads, rows, up.rank) if up else (1,), **single)
        part_b = g.new_empty((shares, heads * size, up.rank) if up else (1,), **single)
        heads_backward_kernel[(heads, shares)](
            g, y, *_up(up, y), *_angles(rotation, y), y if norm is None else norm.weight, g if out is None else out,
            part_h, part_b, rows, heads * size, g.stride(0), y.stride(0), _stride(up),
            0 if out is None else out.stride(0), _scale(up), 0.0 if norm is None else norm.eps,
            **_shape(up), ROTATE=rotation is not None, NORM=norm is not None, STORE=out is not None, SIZE=size,
            **(_UP_BACKWARD if out is None else _HEADS_BACKWARD),
        )  # fmt: skip
        if up is None or out_h is None:
            return None
        out_h.copy_(part_h.sum(0))
        return part_b.sum(0)

    @override
    def swiglu(self, gate_up: Tensor, gate: Up | None, up: Up | None) -> Tensor:
        rows, f = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty((rows, f))
        some = gate or up
        blocks = triton.cdiv(f, _GATED["COLUMNS"])
        swiglu_kernel[(blocks, _shares(rows, blocks))](
            gate_up, *_gated(gate, up, gate_up), out, rows, f, _stride(some), _scale(some), GATE=_first(gate),
            UP=_first(up), R=_shape(some)["R"], BLOCK_R=_shape(some)["BLOCK_R"], **_GATED,
        )  # fmt: skip
        return out

    @override
    def swiglu_backward(
        self, g: Tensor, down: Down | None, gate_up: Tensor, gate: Up | None, up: Up | None, *, maxima: bool
    ) -> GatedGradients:
        rows, f = g.shape
        some = gate or up
        r = down.rank if down is not None else _shape(some)["R"]
        kr = 0 if some is None else some.h.shape[1]
        blocks = triton.cdiv(f, _GATED_BACKWARD["COLUMNS"])
        shares = _shares(rows, blocks // 2)
        out = torch.empty_like(gate_up)
        single = {"dtype": torch.float32}
        part_h = g.new_empty((blocks, rows, kr), **single)
        part_gate, part_up = (g.new_empty((shares, f, r) if t else (1,), **single) for t in (gate, up))
        part_a = g.new_empty((shares, r, f) if down else (1,), **single)
        largest = g.new_empty((blocks, rows) if maxima else (1,), **single)
        h, a, seeds, options = _down(down, g)
        swiglu_backward_kernel[(blocks, shares)](
            g, gate_up, *_gated(gate, up, gate_up), h, a, *seeds, out, part_h, part_gate, part_up, part_a, largest,
            rows, f, _stride(some), _scale(some), GATE=_first(gate), UP=_first(up), DOWN=down is not None, R=r,
            BLOCK_R=_block(r), KR=kr, THRESHOLD=options["THRESHOLD"], INVERSE=options["INVERSE"], MAXIMA=maxima,
            **_GATED_BACKWARD,
        )  # fmt: skip
        return GatedGradients(
            out,
            None if some is None else part_h.sum(0).to(g.dtype),
            part_a.sum(0) if down else None,
            part_gate.sum(0) if gate else None,
            part_up.sum(0) if up else None,
            largest if maxima else None,
        )

    @override
    def down(self, x: Tensor, a: Tensor, rank: int, dropout: Dropout | None) -> Tensor:
        if dropout is None:
            return x @ a.t()
        rows, n = x.shape
        k, shares = a.shape[0] // rank, 4
        out = x.new_empty((shares, rows, a.shape[0]), dtype=torch.float32)
        down_kernel[(rows // ROW_TILE, k, shares)](
            x, a, dropout.seeds, dropout.first, out, n, rows, K=k, R=rank, BLOCK_R=_block(rank), **_mask(dropout),
            ROWS=ROW_TILE, COLUMNS=_COLUMN_TILE, num_warps=4,
        )  # fmt: skip
        return out.sum(0).to(x.dtype)

    @override
    def down_backward(self, g: Tensor, x: Tensor, rank: int, dropout: Dropout | None) -> Tensor:
        if dropout is None:
            return torch.mm(g.t(), x, out_dtype=torch.float32)
        rows, n = x.shape
        k, shares = g.shape[1] // rank, max(1, min(8, rows // ROW_TILE))
        out = x.new_empty((shares, g.shape[1], n), dtype=torch.float32)
        down_backward_kernel[(triton.cdiv(n, _COLUMN_TILE), k, shares)](
            g, x, dropout.seeds, dropout.first, out, n, rows, K=k, R=rank, BLOCK_R=_block(rank), **_mask(dropout),
            ROWS=ROW_TILE, COLUMNS=_COLUMN_TILE, num_warps=4,
        )  # fmt: skip
        return out.sum(0)

    @override
    def up_backward(self, g: Tensor, up: Up, out: Tensor) -> Tensor:
        size = next((size for size in (128, 64) if g.shape[1] % size == 0), None)
        if size is not None and g.is_contiguous():
            gradient = self._heads_backward(g.view(g.shape[0], -1, size), None, up, None, None, None, out)
            assert gradient is not None
            return gradient
        torch.mm(g, up.b, out=out)
        out.mul_(up.scale)
        return torch.mm(g.t(), up.own, out_dtype=torch.float32).mul_(up.scale)

    @override
    def add_down(self, y: Tensor, down: Down | None) -> Tensor:
        if down is None:
            return y
        rows, n = y.shape
        h, a, seeds, options = _down(down, y)
        add_down_kernel[_tiles(rows, n)](
            y,
            h,
            a,
            *seeds,
            n,
            h.stride(0),
            **options,
            **_TILE,
        )
        return y

    @override
    def quantize(self, x: Tensor, maxima: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rows, n = x.shape
        out = torch.empty_like(x, dtype=torch.float8_e4m3fn)
        scales = x.new_empty((rows, 1), dtype=torch.float32)
        block = triton.next_power_of_2(n)
        together = max(1, 16384 // block)
        parts = 1 if maxima is None else maxima.shape[0]
        quantize_kernel[(triton.cdiv(rows, together),)](
            x, x if maxima is None else maxima, out, scales, n, rows, parts, HAS_MAXIMA=maxima is not None,
            ROWS=together, BLOCK=block, BLOCK_PARTS=triton.next_power_of_2(parts), num_warps=16 if block > 16384 else 8,
        )  # fmt: skip
        return out, scales

    @override
    def scaled_product(self, x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = torch._scaled_mm(
            x, w.t(), scale_a=x_scale, scale_b=w_scale.t(), bias=bias, out_dtype=self._dtype, use_fast_accum=True
        )
        return product

    @override
    def cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        rows, vocabulary = logits.shape
        losses = logits.new_empty(rows, dtype=torch.float32)
        if rows:
            cross_entropy_kernel[(rows,)](logits, targets, losses, vocabulary, BLOCK=4096, num_warps=8)
        return losses, logits


def _down(down: Down | None, other: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, int], dict[str, int | float]]:
    """g, a, seeds and the constants of a kernel that adds ``down``."""
    if down is None:
        none = {"K": 1, "R": 16, "BLOCK_R": 16, "BLOCK_K": 16, "THRESHOLD": 0, "INVERSE": 1.0}
        return other, other, (other, 0), none
    k = down.a.shape[0] // down.rank
    seeds = (other, 0) if down.dropout is None else (down.dropout.seeds, down.dropout.first)
    shape = {"K": k, "R": down.rank, "BLOCK_R": _block(down.rank), "BLOCK_K": _block(k * down.rank)}
    return down.g, down.a, seeds, shape | _mask(down.dropout)


def _tiles(rows: int, columns: int) -> tuple[int, int]:
    return rows // _TILE["ROWS"], triton.cdiv(columns, _TILE["COLUMNS"])


def _shares(rows: int, blocks: int) -> int:
    return max(1, min(_PROGRAMS // blocks, rows // ROW_TILE))


def _block(rank: int) -> int:
    """Columns of a tile that holds a state: a power of two, 16 at least for the tensor cores."""
    return max(16, int(triton.next_power_of_2(rank)))


def _warps(block: int) -> int:
    return min(16, max(4, block // 1024))


def _mask(dropout: Dropout | None) -> dict[str, int | float]:
    if dropout is None:
        return {"THRESHOLD": 0, "INVERSE": 1.0}
    return {"THRESHOLD": round(dropout.probability * 2**32), "INVERSE": 1.0 / (1.0 - dropout.probability)}


def _up(up: Up | None, other: Tensor) -> tuple[Tensor, Tensor]:
    return (other, other) if up is None else (up.own, up.b)


def _angles(rotation: Rotation | None, other: Tensor) -> tuple[Tensor, Tensor]:
    return (other, other) if rotation is None else (rotation.cos, rotation.sin)


def _shape(up: Up | None) -> dict[str, int]:
    rank = 16 if up is None else up.rank
    return {"HAS_UP": int(up is not None), "R": rank, "BLOCK_R": _block(rank)}


def _gated(gate: Up | None, up: Up | None, other: Tensor) -> Sequence[Tensor]:
    some = gate or up
    return (
        other if some is None else some.h,
        other if gate is None else gate.b,
        other if up is None else up.b,
    )


def _first(up: Up | None) -> int:
    return -1 if up is None else up.offset


def _stride(up: Up | None) -> int:
    return 0 if up is None else int(up.h.stride(0))


def _scale(up: Up | None) -> float:
    return 1.0 if up is None else up.scale
