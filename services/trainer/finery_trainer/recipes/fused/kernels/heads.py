# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""From a projection to attention heads and back: adapter, norm of each head, rotation."""

import triton
import triton.language as tl

from finery_trainer.recipes.fused.kernels.low_rank import load_state, load_up


@triton.jit
def _projection(y, h, b, rows, columns, N, stride_y, stride_h, scale, HAS_UP: tl.constexpr, R: tl.constexpr,
                BLOCK_R: tl.constexpr):  # fmt: skip
    """A tile of the projection with its adapter's part, fp32."""
    tile = tl.load(y + rows.to(tl.int64)[:, None] * stride_y + columns[None, :]).to(tl.float32)
    if HAS_UP:
        state = load_state(h, rows, stride_h, R, BLOCK_R)
        tile += tl.dot(state, load_up(b, columns, N, R, BLOCK_R), input_precision="ieee") * scale
    return tile


@triton.jit
def heads_kernel(y, h, b, cos, sin, weight, out, N, stride_y, stride_h, stride_out, scale, eps,
                 HAS_UP: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr, ROTATE: tl.constexpr,
                 NORM: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Some rows of one head a program; ``out`` may be ``y``."""
    HALF: tl.constexpr = SIZE // 2
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    within = tl.arange(0, HALF)
    columns = tl.program_id(1) * SIZE + within
    low = _projection(y, h, b, rows, columns, N, stride_y, stride_h, scale, HAS_UP, R, BLOCK_R)
    high = _projection(y, h, b, rows, columns + HALF, N, stride_y, stride_h, scale, HAS_UP, R, BLOCK_R)
    if NORM:
        r = tl.rsqrt((tl.sum(low * low, 1) + tl.sum(high * high, 1)) / SIZE + eps)[:, None]
        low *= r * tl.load(weight + within).to(tl.float32)[None, :]
        high *= r * tl.load(weight + within + HALF).to(tl.float32)[None, :]
    if ROTATE:
        at = rows[:, None] * SIZE + within[None, :]
        c, s = tl.load(cos + at).to(tl.float32), tl.load(sin + at).to(tl.float32)
        low, high = low * c - high * s, high * c + low * s
    at = out + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    tl.store(at, low.to(out.dtype.element_ty))
    tl.store(at + HALF, high.to(out.dtype.element_ty))


@triton.jit
def heads_backward_kernel(g, y, h, b, cos, sin, weight, out, N, stride_g, stride_y, stride_h, stride_out, scale, eps,
                          HAS_UP: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr, ROTATE: tl.constexpr,
                          NORM: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """The gradient of the projection, some rows of one head a program."""
    HALF: tl.constexpr = SIZE // 2
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    within = tl.arange(0, HALF)
    columns = tl.program_id(1) * SIZE + within
    at = g + rows.to(tl.int64)[:, None] * stride_g + columns[None, :]
    low, high = tl.load(at).to(tl.float32), tl.load(at + HALF).to(tl.float32)
    if ROTATE:
        at = rows[:, None] * SIZE + within[None, :]
        c, s = tl.load(cos + at).to(tl.float32), tl.load(sin + at).to(tl.float32)
        low, high = low * c + high * s, high * c - low * s
    if NORM:
        x_low = _projection(y, h, b, rows, columns, N, stride_y, stride_h, scale, HAS_UP, R, BLOCK_R)
        x_high = _projection(y, h, b, rows, columns + HALF, N, stride_y, stride_h, scale, HAS_UP, R, BLOCK_R)
        r = tl.rsqrt((tl.sum(x_low * x_low, 1) + tl.sum(x_high * x_high, 1)) / SIZE + eps)[:, None]
        low *= tl.load(weight + within).to(tl.float32)[None, :]
        high *= tl.load(weight + within + HALF).to(tl.float32)[None, :]
        mean = ((tl.sum(low * x_low, 1) + tl.sum(high * x_high, 1)) / SIZE)[:, None] * r * r
        low, high = r * (low - x_low * mean), r * (high - x_high * mean)
    at = out + rows.to(tl.int64)[:, None] * stride_out + columns[None, :]
    tl.store(at, low.to(out.dtype.element_ty))
    tl.store(at + HALF, high.to(out.dtype.element_ty))
