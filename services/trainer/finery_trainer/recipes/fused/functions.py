"""A decoder layer as two autograd functions, before and after its attention, with backward passes written out.

Written out, each gradient is made where its input is at hand: adapters' products in the kernels that read the large
tensors anyway, and the residual stream's sum in the norm's. What can be had again cheaply isn't kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finery_trainer.recipes.fused.groups import Cast, LinearGroup
from finery_trainer.recipes.fused.operations import Dropout, HeadNorm, Operations, Rotation


@dataclass(frozen=True)
class LayerParts:
    """The frozen parts of a decoder layer, and the shapes of its attention."""

    operations: Operations
    qkv: LinearGroup
    o: LinearGroup
    gate_up: LinearGroup
    down: LinearGroup
    input_norm: Tensor
    mlp_norm: Tensor
    eps: float
    head_size: int
    q_norm: HeadNorm | None
    k_norm: HeadNorm | None

    @property
    def head_norms(self) -> tuple[HeadNorm | None, ...]:
        """Norms of the heads of q, k and v."""
        return self.q_norm, self.k_norm, None


def _low(parts: LayerParts, group: LinearGroup, x: Tensor, cast: Cast, dropout: Dropout | None) -> Tensor | None:
    return None if cast.a is None else parts.operations.down(x, cast.a, group.rank, group.dropped(dropout))


class BeforeAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is not checked
    """Norm, q, k, v projections, rotation: (T, hidden) to the residual stream as it is and q, k, v (T, heads, size)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, rotation: Rotation, parts: LayerParts, dropout: Dropout | None, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        """See the class."""
        operations, group = parts.operations, parts.qkv
        cast = group.cast(parameters, x.dtype)
        normed, inverse = operations.norm(x, parts.input_norm, parts.eps)
        h = _low(parts, group, normed, cast, dropout)
        y = group.product.forward(normed)
        outputs, kept = [], []
        for i, (start, end) in enumerate(group.spans()):
            projection = y[:, start:end].unflatten(1, (-1, parts.head_size))
            norm = parts.head_norms[i]
            kept.append(projection if norm is not None else None)
            outputs.append(operations.heads(projection, group.up(i, h, cast), rotation if i < 2 else None, norm))
        ctx.save_for_backward(x, normed, inverse, *kept)
        ctx.context = (rotation, parts, dropout, cast, h)
        return x, *outputs

    @staticmethod
    def backward(ctx: Any, g_x: Tensor, *g_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        x, normed, inverse, *kept = ctx.saved_tensors
        rotation, parts, dropout, cast, h = ctx.context
        operations, group = parts.operations, parts.qkv
        g = x.new_empty((x.shape[0], sum(group.outs)))
        g_h = None if h is None else torch.empty_like(h)
        g_b: list[Tensor | None] = []
        for i, (start, end) in enumerate(group.spans()):
            up, norm = group.up(i, h, cast), parts.head_norms[i]
            part = g[:, start:end]
            part_h = None if up is None or g_h is None else g_h[:, up.offset : up.offset + up.rank]
            turned = rotation if i < 2 else None
            g_b.append(operations.heads_backward(g_outputs[i], kept[i], up, turned, norm, part, part_h))
        g_a = None if g_h is None else operations.down_backward(g_h, normed, group.rank, group.dropped(dropout))
        if ctx.needs_input_grad[0]:
            g_normed = group.product.backward(g, None)
            down = group.down(g_h, cast, dropout)
            g_x = operations.norm_backward(g_normed, down, x, inverse, parts.input_norm, g_x)
        return g_x, None, None, None, *group.gradients(g_a, g_b)


class AfterAttention(torch.autograd.Function):  # type: ignore[misc]  # torch is not checked
    """Output projection, norm, gated MLP, both residual sums: (T, hidden) and (T, heads · size) to (T, hidden)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mixed: Tensor, parts: LayerParts, dropout: Dropout | None, *parameters: Tensor
    ) -> Tensor:
        """See the class."""
        operations = parts.operations
        casts, taken = [], 0
        for group in (parts.o, parts.gate_up, parts.down):
            count = len(group.parameters())
            casts.append(group.cast(parameters[taken : taken + count], x.dtype))
            taken += count
        o, gate_up, down = casts
        h_o = _low(parts, parts.o, mixed, o, dropout)
        middle = operations.residual(x, parts.o.product.forward(mixed), parts.o.up(0, h_o, o))
        normed, inverse = operations.norm(middle, parts.mlp_norm, parts.eps)
        h_gu = _low(parts, parts.gate_up, normed, gate_up, dropout)
        both = parts.gate_up.product.forward(normed)
        active = operations.swiglu(both, *(parts.gate_up.up(i, h_gu, gate_up) for i in (0, 1)))
        h_d = _low(parts, parts.down, active, down, dropout)
        result = operations.residual(middle, parts.down.product.forward(active), parts.down.up(0, h_d, down))
        ctx.save_for_backward(mixed, middle, normed, inverse, both)
        ctx.context = (parts, dropout, casts, (h_o, h_gu, h_d))
        return result

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        mixed, middle, normed, inverse, both = ctx.saved_tensors
        parts, dropout, (o, gate_up, down), (h_o, h_gu, h_d) = ctx.context
        operations = parts.operations
        g = g.contiguous()
        g_h, g_b_down = _up_backward(operations, g, parts.down, h_d, down)
        gated = operations.swiglu_backward(
            parts.down.product.backward(g, None),
            parts.down.down(g_h, down, dropout),
            both,
            *(parts.gate_up.up(i, h_gu, gate_up) for i in (0, 1)),
            maxima=hasattr(parts.gate_up.product, "part"),
        )
        g_normed = parts.gate_up.product.backward(gated.gate_up, gated.row_maxima)
        g_a_gu = None
        if gated.h is not None:
            g_a_gu = operations.down_backward(gated.h, normed, parts.gate_up.rank, parts.gate_up.dropped(dropout))
        g_middle = operations.norm_backward(
            g_normed, parts.gate_up.down(gated.h, gate_up, dropout), middle, inverse, parts.mlp_norm, g
        )
        g_h, g_b_o = _up_backward(operations, g_middle, parts.o, h_o, o)
        g_mixed = operations.add_down(parts.o.product.backward(g_middle, None), parts.o.down(g_h, o, dropout))
        g_a_o = None if g_h is None else operations.down_backward(g_h, mixed, parts.o.rank, parts.o.dropped(dropout))
        return (
            g_middle,
            g_mixed,
            None,
            None,
            *parts.o.gradients(g_a_o, [g_b_o]),
            *parts.gate_up.gradients(g_a_gu, [gated.b_gate, gated.b_up]),
            *parts.down.gradients(gated.a_down, [g_b_down]),
        )


def _up_backward(
    operations: Operations, g: Tensor, group: LinearGroup, h: Tensor | None, cast: Cast
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of h and b of a group with one output."""
    up = group.up(0, h, cast)
    if up is None or h is None:
        return None, None
    g_h = torch.empty_like(h)
    return g_h, operations.up_backward(g, up, g_h)
