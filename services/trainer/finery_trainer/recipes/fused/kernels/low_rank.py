# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""Low-rank products inside other kernels, and the masks of LoRA's dropout."""

import triton
import triton.language as tl


@triton.jit
def load_state(h, rows, stride, R: tl.constexpr, BLOCK_R: tl.constexpr):
    """h[rows, :R], padded with zeros to BLOCK_R columns."""
    r = tl.arange(0, BLOCK_R)
    return tl.load(h + rows[:, None] * stride + r[None, :], mask=r[None, :] < R, other=0.0)


@triton.jit
def load_up(b, columns, N, R: tl.constexpr, BLOCK_R: tl.constexpr):
    """b[columns, :R] of an (N, R) matrix, as (BLOCK_R, columns)."""
    r = tl.arange(0, BLOCK_R)
    return tl.load(b + columns[None, :] * R + r[:, None], mask=(r[:, None] < R) & (columns[None, :] < N), other=0.0)


@triton.jit
def load_down(a, columns, N, R: tl.constexpr, BLOCK_R: tl.constexpr):
    """a[:R, columns] of an (R, N) matrix, padded with zeros to BLOCK_R rows."""
    r = tl.arange(0, BLOCK_R)
    return tl.load(a + r[:, None] * N + columns[None, :], mask=(r[:, None] < R) & (columns[None, :] < N), other=0.0)


@triton.jit
def keep(rows, columns, N, seeds, adapter, THRESHOLD: tl.constexpr):
    """Which elements of the (·, N) input of an adapter stay; see torch_operations.keep."""
    number = tl.cast(adapter, tl.int64)
    low = (tl.load(seeds).to(tl.int64) + number * 0x1E3779B1) & 0x7FFFFFFF
    high = (tl.load(seeds + 1).to(tl.int64) ^ (number * 0x05EBCA6B)) & 0x7FFFFFFF
    x = (rows[:, None] * N + columns[None, :]).to(tl.uint32)
    x = x ^ low.to(tl.uint32)
    x = x ^ (x >> 16)
    x = x * tl.full((), 0x7FEB352D, tl.uint32)
    x = x ^ high.to(tl.uint32)
    x = x ^ (x >> 15)
    x = x * tl.full((), 0x846CA68B, tl.uint32)
    x = x ^ (x >> 16)
    return x >= tl.full((), THRESHOLD, tl.uint32)


@triton.jit
def add_down_tile(y, g, a, seeds, first, rows, columns, N, stride_g, K: tl.constexpr, R: tl.constexpr,
                  BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, THRESHOLD: tl.constexpr,
                  INVERSE: tl.constexpr):  # fmt: skip
    """Y + Σ_j mask_j · (g[rows, part j] @ a[part j, columns]) for K adapters of rank R; one product without dropout."""
    if THRESHOLD == 0:
        state = load_state(g, rows, stride_g, K * R, BLOCK_K)
        return y + tl.dot(state, load_down(a, columns, N, K * R, BLOCK_K), input_precision="ieee")
    for j in tl.static_range(K):
        state = load_state(g + j * R, rows, stride_g, R, BLOCK_R)
        part = tl.dot(state, load_down(a + j * R * N, columns, N, R, BLOCK_R), input_precision="ieee")
        mask = keep(rows, columns, N, seeds, first + j, THRESHOLD)
        y += tl.where(mask, part * INVERSE, 0.0)
    return y


@triton.jit(do_not_specialize=["first"])
def add_down_kernel(y, g, a, seeds, first, N, stride_g, K: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr,
                    BLOCK_K: tl.constexpr, THRESHOLD: tl.constexpr, INVERSE: tl.constexpr,
                    ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """In place: (T, N) plus the adapters' part of a gradient."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    at = y + rows.to(tl.int64)[:, None] * N + columns[None, :]
    tile = tl.load(at, mask=columns[None, :] < N, other=0.0)
    value = add_down_tile(tile.to(tl.float32), g, a, seeds, first, rows, columns, N, stride_g, K, R, BLOCK_R, BLOCK_K,
                          THRESHOLD, INVERSE)  # fmt: skip
    tl.store(at, value.to(tile.dtype), mask=columns[None, :] < N)


@triton.jit(do_not_specialize=["first"])
def down_kernel(x, a, seeds, first, out, N, T, K: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr,
                THRESHOLD: tl.constexpr, INVERSE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """With dropout: partial h of one adapter over one share of the columns, out (shares, T, K·R) fp32."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    j = tl.program_id(1)
    share = tl.program_id(2)
    width = tl.cdiv(tl.cdiv(N, tl.num_programs(2)), COLUMNS) * COLUMNS
    total = tl.zeros((ROWS, BLOCK_R), tl.float32)
    for start in range(share * width, min(share * width + width, N), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        tile = tl.load(x + rows.to(tl.int64)[:, None] * N + columns[None, :], mask=columns[None, :] < N, other=0.0)
        mask = keep(rows, columns, N, seeds, first + j, THRESHOLD)
        tile = tl.where(mask, tile.to(tl.float32) * INVERSE, 0.0).to(tile.dtype)
        total += tl.dot(tile, tl.trans(load_down(a + j * R * N, columns, N, R, BLOCK_R)), input_precision="ieee")
    r = tl.arange(0, BLOCK_R)
    at = out + (share * T + rows[:, None]) * (K * R) + j * R + r[None, :]
    tl.store(at, total, mask=r[None, :] < R)


@triton.jit(do_not_specialize=["first"])
def down_backward_kernel(g, x, seeds, first, out, N, T, K: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr,
                         THRESHOLD: tl.constexpr, INVERSE: tl.constexpr, ROWS: tl.constexpr,
                         COLUMNS: tl.constexpr):  # fmt: skip
    """With dropout: partial gradient of one adapter's a over one share of the rows, out (shares, K·R, N) fp32."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    j = tl.program_id(1)
    share = tl.program_id(2)
    height = tl.cdiv(tl.cdiv(T, tl.num_programs(2)), ROWS) * ROWS
    total = tl.zeros((BLOCK_R, COLUMNS), tl.float32)
    for start in range(share * height, min(share * height + height, T), ROWS):
        rows = start + tl.arange(0, ROWS)
        tile = tl.load(x + rows.to(tl.int64)[:, None] * N + columns[None, :], mask=columns[None, :] < N, other=0.0)
        mask = keep(rows, columns, N, seeds, first + j, THRESHOLD)
        tile = tl.where(mask, tile.to(tl.float32) * INVERSE, 0.0).to(tile.dtype)
        state = load_state(g + j * R, rows, K * R, R, BLOCK_R)
        total += tl.dot(tl.trans(state), tile, input_precision="ieee")
    r = tl.arange(0, BLOCK_R)
    at = out + (share * K * R + j * R + r[:, None]) * N + columns[None, :]
    tl.store(at, total, mask=(r[:, None] < R) & (columns[None, :] < N))
