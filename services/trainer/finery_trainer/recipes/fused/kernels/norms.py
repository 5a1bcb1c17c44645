# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""RMS norms, and residual sums with an adapter's part."""

import triton
import triton.language as tl

from finery_trainer.recipes.fused.kernels.low_rank import add_down_tile, load_state, load_up


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


@triton.jit(do_not_specialize=["first"])
def norm_backward_kernel(g, h, a, seeds, first, x, inverse, weight, residual, out, N, stride_g, HAS_DOWN: tl.constexpr,
                         K: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
                         THRESHOLD: tl.constexpr, INVERSE: tl.constexpr, ROWS: tl.constexpr,
                         COLUMNS: tl.constexpr):  # fmt: skip
    """The residual plus the gradient of the norm's input; a few rows a program, in two passes over their columns.

    The first leaves the whole gradient of the norm's output in ``out``, for the second to read from the cache.
    """
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    base = tl.program_id(0).to(tl.int64) * ROWS * N
    within = tl.arange(0, ROWS)[:, None] * N
    r = tl.load(inverse + rows)[:, None]
    inner = tl.zeros((ROWS,), tl.float32)
    for start in range(0, N, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mask = columns[None, :] < N
        at = within + columns[None, :]
        tile = tl.load(g + base + at, mask=mask, other=0.0)
        whole = tile.to(tl.float32)
        if HAS_DOWN:
            whole = add_down_tile(whole, h, a, seeds, first, rows, columns, N, stride_g, K, R, BLOCK_R, BLOCK_K,
                                  THRESHOLD, INVERSE)  # fmt: skip
            tl.store(out + base + at, whole.to(tile.dtype), mask=mask)
        w = tl.load(weight + columns, mask=columns < N, other=0.0).to(tl.float32)
        values = tl.load(x + base + at, mask=mask, other=0.0).to(tl.float32)
        inner += tl.sum(whole * w[None, :] * values, 1)
    mean = (inner / N)[:, None] * r * r
    tl.debug_barrier()
    for start in range(0, N, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        mask = columns[None, :] < N
        at = within + columns[None, :]
        if HAS_DOWN:
            whole = tl.load(out + base + at, mask=mask, other=0.0).to(tl.float32)
        else:
            whole = tl.load(g + base + at, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(weight + columns, mask=columns < N, other=0.0).to(tl.float32)
        values = tl.load(x + base + at, mask=mask, other=0.0)
        rest = tl.load(residual + base + at, mask=mask, other=0.0).to(tl.float32)
        result = rest + r * (whole * w[None, :] - values.to(tl.float32) * mean)
        tl.store(out + base + at, result.to(values.dtype), mask=mask)


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
