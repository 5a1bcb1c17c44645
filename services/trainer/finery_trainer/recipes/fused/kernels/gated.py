# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""The gated activation with the adapters of gate, up and down around it, and its backward pass."""

import triton
import triton.language as tl

from finery_trainer.recipes.fused.kernels.low_rank import keep, load_down, load_state, load_up


@triton.jit
def swiglu_kernel(gate_up, h, b_gate, b_up, out, F, stride_h, scale, GATE: tl.constexpr, UP: tl.constexpr,
                  R: tl.constexpr, BLOCK_R: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """A tile a program. GATE, UP: first column of h of each adapter, -1 without one."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns[None, :] < F
    at = rows.to(tl.int64)[:, None] * (2 * F) + columns[None, :]
    gate = tl.load(gate_up + at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(gate_up + at + F, mask=mask, other=0.0).to(tl.float32)
    if GATE >= 0:
        state = load_state(h + GATE, rows, stride_h, R, BLOCK_R)
        gate += tl.dot(state, load_up(b_gate, columns, F, R, BLOCK_R), input_precision="ieee") * scale
    if UP >= 0:
        state = load_state(h + UP, rows, stride_h, R, BLOCK_R)
        up += tl.dot(state, load_up(b_up, columns, F, R, BLOCK_R), input_precision="ieee") * scale
    result = gate * tl.sigmoid(gate) * up
    at = out + rows.to(tl.int64)[:, None] * F + columns[None, :]
    tl.store(at, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["low", "high"])
def swiglu_backward_kernel(g, gate_up, h, b_gate, b_up, g_h_down, a_down, low, high, out, part_h, part_b_gate,
                           part_b_up, part_a, maxima, T, F, stride_h, scale, GATE: tl.constexpr, UP: tl.constexpr,
                           DOWN: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr, KR: tl.constexpr,
                           THRESHOLD: tl.constexpr, INVERSE: tl.constexpr, MAXIMA: tl.constexpr, ROWS: tl.constexpr,
                           COLUMNS: tl.constexpr):  # fmt: skip
    """Some columns of one share of the rows a program, all that depends on these columns in registers.

    Writes the gradients of gate and up (T, 2·F); per column block that of h, (blocks, T, KR), without scale, and the
    rows' largest magnitudes (blocks, T); per share those of the b's (shares, F, R), without scale, and of the down
    adapter's a (shares, R, F). Partial sums are added afterwards, in a fixed order: runs repeat themselves.
    """
    block = tl.program_id(0)
    share = tl.program_id(1)
    columns = block * COLUMNS + tl.arange(0, COLUMNS)
    mask = columns[None, :] < F
    r = tl.arange(0, BLOCK_R)
    height = tl.cdiv(tl.cdiv(T, tl.num_programs(1)), ROWS) * ROWS
    dtype: tl.constexpr = out.dtype.element_ty
    if GATE >= 0:
        b_g = load_up(b_gate, columns, F, R, BLOCK_R)
        sum_b_gate = tl.zeros((BLOCK_R, COLUMNS), tl.float32)
    if UP >= 0:
        b_u = load_up(b_up, columns, F, R, BLOCK_R)
        sum_b_up = tl.zeros((BLOCK_R, COLUMNS), tl.float32)
    if DOWN:
        a = load_down(a_down, columns, F, R, BLOCK_R)
        sum_a = tl.zeros((BLOCK_R, COLUMNS), tl.float32)
    for start in range(share * height, min(share * height + height, T), ROWS):
        rows = start + tl.arange(0, ROWS)
        wide = rows.to(tl.int64)[:, None]
        at = wide * (2 * F) + columns[None, :]
        gate = tl.load(gate_up + at, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up + at + F, mask=mask, other=0.0).to(tl.float32)
        incoming = tl.load(g + wide * F + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        if GATE >= 0:
            h_g = load_state(h + GATE, rows, stride_h, R, BLOCK_R)
            gate += tl.dot(h_g, b_g, input_precision="ieee") * scale
        if UP >= 0:
            h_u = load_state(h + UP, rows, stride_h, R, BLOCK_R)
            up += tl.dot(h_u, b_u, input_precision="ieee") * scale
        if DOWN:
            state = load_state(g_h_down, rows, R, R, BLOCK_R)
            part = tl.dot(state, a, input_precision="ieee")
            if THRESHOLD > 0:
                kept = keep(rows, columns, F, low, high, 0, THRESHOLD)
                part = tl.where(kept, part * INVERSE, 0.0)
            incoming += part
        sigmoid = tl.sigmoid(gate)
        active = gate * sigmoid
        if DOWN:
            made = active * up
            if THRESHOLD > 0:
                made = tl.where(kept, made * INVERSE, 0.0)
            sum_a += tl.dot(tl.trans(state), made.to(dtype), input_precision="ieee")
        g_up = (incoming * active).to(dtype)
        g_gate = (incoming * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))).to(dtype)
        tl.store(out + at, g_gate, mask=mask)
        tl.store(out + at + F, g_up, mask=mask)
        at_h = part_h + (block * T + rows[:, None]) * KR + r[None, :]
        if GATE >= 0:
            sum_b_gate += tl.dot(tl.trans(h_g), g_gate, input_precision="ieee")
            tl.store(at_h + GATE, tl.dot(g_gate, tl.trans(b_g), input_precision="ieee"), mask=r[None, :] < R)
        if UP >= 0:
            sum_b_up += tl.dot(tl.trans(h_u), g_up, input_precision="ieee")
            tl.store(at_h + UP, tl.dot(g_up, tl.trans(b_u), input_precision="ieee"), mask=r[None, :] < R)
        if MAXIMA:
            largest = tl.maximum(tl.abs(g_gate.to(tl.float32)), tl.abs(g_up.to(tl.float32)))
            tl.store(maxima + block * T + rows, tl.max(largest, 1))
    at_b = (share * F + columns[None, :]) * R + r[:, None]
    mask_b = mask & (r[:, None] < R)
    if GATE >= 0:
        tl.store(part_b_gate + at_b, sum_b_gate, mask=mask_b)
    if UP >= 0:
        tl.store(part_b_up + at_b, sum_b_up, mask=mask_b)
    if DOWN:
        tl.store(part_a + (share * R + r[:, None]) * F + columns[None, :], sum_a, mask=mask_b)
