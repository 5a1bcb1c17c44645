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
def heads_backward_kernel(g, y, h, b, cos, sin, weight, out, part_h, part_b, T, N, stride_g, stride_y, stride_h,
                          stride_out, scale, eps, HAS_UP: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr,
                          ROTATE: tl.constexpr, NORM: tl.constexpr, STORE: tl.constexpr, SIZE: tl.constexpr,
                          ROWS: tl.constexpr):  # fmt: skip
    """The gradient of the projection, one head of one share of the rows a program.

    With an adapter also the head's part of its gradients: of h, (heads, T, R), and, per share, of b, (shares, N, R).
    """
    HALF: tl.constexpr = SIZE // 2
    head = tl.program_id(0)
    share = tl.program_id(1)
    within = tl.arange(0, HALF)
    columns = head * SIZE + within
    r = tl.arange(0, BLOCK_R)
    dtype: tl.constexpr = g.dtype.element_ty
    height = tl.cdiv(tl.cdiv(T, tl.num_programs(1)), ROWS) * ROWS
    if HAS_UP:
        b_low, b_high = load_up(b, columns, N, R, BLOCK_R), load_up(b, columns + HALF, N, R, BLOCK_R)
        sum_low = tl.zeros((HALF, BLOCK_R), tl.float32)
        sum_high = tl.zeros((HALF, BLOCK_R), tl.float32)
    # Tiles lie at 32-bit offsets from a base that moves: pointers for each element would take the registers.
    local = tl.arange(0, ROWS)[:, None]
    at_g, at_out = local * stride_g + columns[None, :], local * stride_out + columns[None, :]
    angle = local * SIZE + within[None, :]
    for start in range(share * height, min(share * height + height, T), ROWS):
        rows = start + tl.arange(0, ROWS)
        beginning = tl.cast(start, tl.int64)
        tile = g + beginning * stride_g
        low, high = tl.load(tile + at_g).to(tl.float32), tl.load(tile + HALF + at_g).to(tl.float32)
        if ROTATE:
            c = tl.load(cos + beginning * SIZE + angle).to(tl.float32)
            s = tl.load(sin + beginning * SIZE + angle).to(tl.float32)
            low, high = low * c + high * s, high * c - low * s
        if NORM:
            x_low = _projection(y, h, b, rows, columns, N, stride_y, stride_h, scale, HAS_UP, R, BLOCK_R)
            x_high = _projection(y, h, b, rows, columns + HALF, N, stride_y, stride_h, scale, HAS_UP, R, BLOCK_R)
            inverse = tl.rsqrt((tl.sum(x_low * x_low, 1) + tl.sum(x_high * x_high, 1)) / SIZE + eps)[:, None]
            low *= tl.load(weight + within).to(tl.float32)[None, :]
            high *= tl.load(weight + within + HALF).to(tl.float32)[None, :]
            mean = ((tl.sum(low * x_low, 1) + tl.sum(high * x_high, 1)) / SIZE)[:, None] * inverse * inverse
            low, high = inverse * (low - x_low * mean), inverse * (high - x_high * mean)
        first, second = low.to(dtype), high.to(dtype)
        if STORE:
            tile = out + beginning * stride_out
            tl.store(tile + at_out, first)
            tl.store(tile + HALF + at_out, second)
        if HAS_UP:
            state = load_state(h, rows, stride_h, R, BLOCK_R)
            sum_low += tl.dot(tl.trans(first), state, input_precision="ieee")
            sum_high += tl.dot(tl.trans(second), state, input_precision="ieee")
            part = tl.dot(first, tl.trans(b_low), input_precision="ieee")
            part += tl.dot(second, tl.trans(b_high), input_precision="ieee")
            tl.store(part_h + (head * T + rows[:, None]) * R + r[None, :], part * scale, mask=r[None, :] < R)
    if HAS_UP:
        at = part_b + (share * N + columns[:, None]) * R + r[None, :]
        tl.store(at, sum_low * scale, mask=r[None, :] < R)
        tl.store(at + HALF * R, sum_high * scale, mask=r[None, :] < R)
