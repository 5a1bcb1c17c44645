# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""RMS norms, and residual sums with an adapter's part."""

import triton
import triton.language as tl

from finery_trainer.recipes.fused.kernels.low_rank import load_state, load_up


@triton.jit
def norm_kernel(x, weight, out, inverse, N, eps, BLOCK: tl.constexpr):
    """One row a program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    tile = tl.load(x + row * N + columns, mask=mask, other=0.0)
    values = tile.to(tl.float32)
    r = tl.rsqrt(tl.sum(values * values) / N + eps)
    w = tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * N + columns, (values * r * w).to(tile.dtype), mask=mask)
    tl.store(inverse + row, r)


@triton.jit
def norm_backward_kernel(g, x, inverse, weight, residual, out, N, BLOCK: tl.constexpr):
    """The residual plus the gradient of the norm's input, one row a program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < N
    at = row * N + columns
    tile = tl.load(x + at, mask=mask, other=0.0)
    values = tile.to(tl.float32)
    weighted = tl.load(g + at, mask=mask, other=0.0).to(tl.float32)
    weighted *= tl.load(weight + columns, mask=mask, other=0.0).to(tl.float32)
    rest = tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    r = tl.load(inverse + row)
    mean = tl.sum(weighted * values) / N * r * r
    tl.store(out + at, (rest + r * (weighted - values * mean)).to(tile.dtype), mask=mask)


@triton.jit
def residual_kernel(x, y, h, b, out, N, stride_h, scale, R: tl.constexpr, BLOCK_R: tl.constexpr, ROWS: tl.constexpr,
                    COLUMNS: tl.constexpr):  # fmt: skip
    """The sum x + y + scale · h bᵀ, a tile a program."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns[None, :] < N
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    tile = tl.load(x + at, mask=mask, other=0.0)
    total = tile.to(tl.float32) + tl.load(y + at, mask=mask, other=0.0).to(tl.float32)
    state = load_state(h, rows, stride_h, R, BLOCK_R)
    total += tl.dot(state, load_up(b, columns, N, R, BLOCK_R), input_precision="ieee") * scale
    tl.store(out + at, total.to(tile.dtype), mask=mask)
