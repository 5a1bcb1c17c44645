# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""Work on whole rows: quantization to e4m3, and cross-entropy with its gradient."""

import triton
import triton.language as tl


@triton.jit
def quantize_kernel(x, maxima, out, scales, N, T, parts, HAS_MAXIMA: tl.constexpr, ROWS: tl.constexpr,
                    BLOCK: tl.constexpr, BLOCK_PARTS: tl.constexpr):  # fmt: skip
    """A few rows a program; their largest magnitudes from ``maxima`` (parts, T) if there are any."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    mask = (columns[None, :] < N) & (rows[:, None] < T)
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if HAS_MAXIMA:
        part = tl.arange(0, BLOCK_PARTS)
        found = tl.load(maxima + part[None, :] * T + rows[:, None],
                        mask=(part[None, :] < parts) & (rows[:, None] < T), other=0.0)  # fmt: skip
        largest = tl.max(found, 1)
    else:
        largest = tl.max(tl.abs(values), 1)
    scale = tl.maximum(largest, 1e-6) / 448.0
    tl.store(scales + rows, scale, mask=rows < T)
    tl.store(out + at, (values * (1.0 / scale)[:, None]).to(tl.float8e4nv), mask=mask)


@triton.jit
def cross_entropy_kernel(logits, targets, losses, V, BLOCK: tl.constexpr):
    """One row a program: its loss, and in the logits' place the gradient of it."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    at = logits + row * V
    running = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        z = tl.load(at + columns, mask=columns < V, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(running, z)
        total = total * tl.exp(running - tl.where(larger == float("-inf"), 0.0, larger)) + tl.exp(
            z - tl.where(larger == float("-inf"), 0.0, larger)
        )
        running = larger
    largest = tl.max(running)
    logsum = largest + tl.log(tl.sum(total * tl.exp(running - largest)))
    counted = tl.where(target >= 0, 1.0, 0.0)
    tl.store(losses + row, (logsum - tl.load(at + tl.maximum(target, 0)).to(tl.float32)) * counted)
    tl.debug_barrier()
    for start in range(0, V, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        tile = tl.load(at + columns, mask=columns < V, other=float("-inf"))
        g = tl.exp(tile.to(tl.float32) - logsum) - tl.where(columns == target, 1.0, 0.0)
        tl.store(at + columns, (g * counted).to(tile.dtype), mask=columns < V)
