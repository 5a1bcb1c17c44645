"""The fused layer's operations in plain torch: what runs on a CPU, and what the kernels are checked against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from typing_extensions import override

from finery_trainer.recipes.fused.operations import Down, Dropout, GatedGradients, HeadNorm, Operations, Rotation, Up

E4M3_MAX = 448.0
_SMALLEST = 1e-6
_MASK = 0xFFFFFFFF


class TorchOperations(Operations):
    """See `Operations`. ``dtype`` is the type in which e4m3 products are emulated and results are given."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    @override
    def norm(self, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        values = x.float()
        inverse = torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
        return (values * inverse).to(x.dtype) * weight, inverse[:, 0]

    @override
    def norm_backward(
        self, g: Tensor, down: Down | None, x: Tensor, inverse: Tensor, weight: Tensor, residual: Tensor
    ) -> Tensor:
        weighted = self.add_down(g, down).float() * weight.float()
        normed = x.float() * inverse[:, None]
        inner = (weighted * normed).mean(-1, keepdim=True)
        return (residual.float() + inverse[:, None] * (weighted - normed * inner)).to(x.dtype)

    @override
    def residual(self, x: Tensor, y: Tensor, up: Up | None) -> Tensor:
        return x + _added(y, up)

    @override
    def heads(self, y: Tensor, up: Up | None, rotation: Rotation | None, norm: HeadNorm | None) -> Tensor:
        y = _added(y.flatten(1), up).view(y.shape)
        if norm is not None:
            y = self.norm(y.flatten(0, 1), norm.weight, norm.eps)[0].view(y.shape)
        return y if rotation is None else _rotate(y, rotation.cos, rotation.sin)

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
        if rotation is not None:
            g = _rotate(g, rotation.cos, -rotation.sin)
        if norm is not None and y is not None:
            x = _added(y.flatten(1), up).reshape(-1, y.shape[-1])
            inverse = self.norm(x, norm.weight, norm.eps)[1]
            rows = g.reshape(x.shape)
            g = self.norm_backward(rows, None, x, inverse, norm.weight, torch.zeros_like(rows)).view(g.shape)
        out.copy_(g.flatten(1))
        return None if up is None or out_h is None else self.up_backward(out, up, out_h)

    @override
    def swiglu(self, gate_up: Tensor, gate: Up | None, up: Up | None) -> Tensor:
        g, u = gate_up.chunk(2, -1)
        return functional.silu(_added(g, gate)) * _added(u, up)

    @override
    def swiglu_backward(
        self, g: Tensor, down: Down | None, gate_up: Tensor, gate: Up | None, up: Up | None, *, maxima: bool
    ) -> GatedGradients:
        one, other = gate_up.chunk(2, -1)
        one, other = _added(one, gate).float(), _added(other, up).float()
        incoming = self.add_down(g, down).float()
        share = torch.sigmoid(one)
        active = one * share
        gradients = torch.cat([incoming * other * share * (1 + one * (1 - share)), incoming * active], -1).to(g.dtype)
        halves = gradients.chunk(2, -1)
        h = None
        b: list[Tensor | None] = []
        for half, term in zip(halves, (gate, up), strict=True):
            if term is None:
                b.append(None)
                continue
            h = torch.empty_like(term.h) if h is None else h
            b.append(self.up_backward(half, term, h[:, term.offset : term.offset + term.rank]))
        a = None
        if down is not None:
            a = self.down_backward(down.g, (active * other).to(g.dtype), down.rank, down.dropout)
        return GatedGradients(gradients, h, a, b[0], b[1], None)

    @override
    def down(self, x: Tensor, a: Tensor, rank: int, dropout: Dropout | None) -> Tensor:
        if dropout is None:
            return x @ a.t()
        parts = enumerate(a.split(rank))
        return torch.cat([_dropped(x, dropout, j) @ part.t() for j, part in parts], -1)

    @override
    def down_backward(self, g: Tensor, x: Tensor, rank: int, dropout: Dropout | None) -> Tensor:
        if dropout is None:
            return (g.t() @ x).float()
        parts = enumerate(g.split(rank, -1))
        return torch.cat([part.t() @ _dropped(x, dropout, j) for j, part in parts]).float()

    @override
    def up_backward(self, g: Tensor, up: Up, out: Tensor) -> Tensor:
        out.copy_((g @ up.b) * up.scale)
        return (g.t() @ up.own).float() * up.scale

    @override
    def add_down(self, y: Tensor, down: Down | None) -> Tensor:
        if down is None:
            return y
        if down.dropout is None:
            return torch.addmm(y, down.g, down.a)
        for j, (g, a) in enumerate(zip(down.g.split(down.rank, -1), down.a.split(down.rank), strict=True)):
            y = y + _dropped(g @ a, down.dropout, j)
        return y

    @override
    def quantize(self, x: Tensor, maxima: Tensor | None = None) -> tuple[Tensor, Tensor]:
        largest = x.abs().amax(-1, keepdim=True) if maxima is None else maxima.amax(0)[:, None]
        scale = largest.float().clamp(min=_SMALLEST) / E4M3_MAX
        return (x.float() / scale).to(torch.float8_e4m3fn), scale

    @override
    def scaled_product(self, x: Tensor, x_scale: Tensor, w: Tensor, w_scale: Tensor, bias: Tensor | None) -> Tensor:
        if x.is_cuda:
            return torch._scaled_mm(
                x, w.t(), scale_a=x_scale, scale_b=w_scale.t(), bias=bias, out_dtype=self._dtype, use_fast_accum=True
            )
        # Sums in fp32, scales applied to the sums: what the hardware does.
        product = (x.float() @ w.float().t()) * x_scale * w_scale.t()
        return (product if bias is None else product + bias.float()).to(self._dtype)

    @override
    def cross_entropy(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        values = logits.float()
        logsum = torch.logsumexp(values, -1, keepdim=True)
        counted = targets >= 0
        at = targets.clamp(min=0)[:, None]
        losses = (logsum - values.gather(1, at))[:, 0] * counted
        gradient = torch.exp(values - logsum)
        gradient.scatter_add_(1, at, torch.full_like(logsum, -1.0))
        return losses, (gradient * counted[:, None]).to(logits.dtype)


def keep(shape: tuple[int, int], probability: float, seeds: Tensor, adapter: int) -> Tensor:
    """Which of (rows, columns) stay: a mixing function (Wellons' "lowbias32") of the index, seeded twice on its way."""
    low, high = seeds.to(torch.int64)
    low = (low + adapter * 0x1E3779B1) & 0x7FFFFFFF
    high = (high ^ (adapter * 0x05EBCA6B)) & 0x7FFFFFFF
    x = torch.arange(shape[0] * shape[1], dtype=torch.int64, device=seeds.device) & _MASK
    x = x ^ low
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & _MASK
    x = x ^ high
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & _MASK
    x = x ^ (x >> 16)
    return (x >= round(probability * 2**32)).view(shape)


def _dropped(x: Tensor, dropout: Dropout, adapter: int) -> Tensor:
    mask = keep((x.shape[0], x.shape[1]), dropout.probability, dropout.seeds, dropout.first + adapter)
    return x * mask / (1.0 - dropout.probability)


def _added(y: Tensor, up: Up | None) -> Tensor:
    return y if up is None else torch.addmm(y, up.own, up.b.t(), alpha=up.scale)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]
