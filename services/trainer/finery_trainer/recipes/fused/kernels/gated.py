# mypy: disable-error-code="no-untyped-def,misc,untyped-decorator"
# (Triton's language has no types, and isn't installed where types are checked.)
"""The gated activation with the adapters of gate, up and down around it, and its backward pass."""

import triton
import triton.language as tl

from finery_trainer.recipes.fused.kernels.low_rank import keep, load_down, load_state, load_up


@triton.jit
def swiglu_kernel(gate_up, h, b_gate, b_up, out, T, F, stride_h, scale, GATE: tl.constexpr, UP: tl.constexpr,
                  R: tl.constexpr, BLOCK_R: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Some columns of one share of the rows a program. GATE, UP: first column of h of each adapter, -1 without one."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    share = tl.program_id(1)
    mask = columns[None, :] < F
    height = tl.cdiv(tl.cdiv(T, tl.num_programs(1)), ROWS) * ROWS
    if GATE >= 0:
        b_g = load_up(b_gate, columns, F, R, BLOCK_R)
    if UP >= 0:
        b_u = load_up(b_up, columns, F, R, BLOCK_R)
    within = tl.arange(0, ROWS)[:, None]
    at, at_out = within * (2 * F) + columns[None, :], within * F + columns[None, :]
    for start in range(share * height, min(share * height + height, T), ROWS):
        rows = start + tl.arange(0, ROWS)
        tiles = gate_up + tl.cast(start, tl.int64) * (2 * F)
        gate = tl.load(tiles + at, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(tiles + F + at, mask=mask, other=0.0).to(tl.float32)
        if GATE >= 0:
            state = load_state(h + GATE, rows, stride_h, R, BLOCK_R)
            gate += tl.dot(state, b_g, input_precision="ieee") * scale
        if UP >= 0:
            state = load_state(h + UP, rows, stride_h, R, BLOCK_R)
            up += tl.dot(state, b_u, input_precision="ieee") * scale
        result = gate * tl.sigmoid(gate) * up
        tl.store(out + tl.cast(start, tl.int64) * F + at_out, result.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["first_adapter"])
def swiglu_backward_kernel(g, gate_up, h, b_gate, b_up, g_h_down, a_down, seeds, first_adapter, out, part_h,
                           part_b_gate, part_b_up, part_a, maxima, T, F, stride_h, scale, GATE: tl.constexpr,
                           UP: tl.constexpr, DOWN: tl.constexpr, R: tl.constexpr, BLOCK_R: tl.constexpr,
                           KR: tl.constexpr, THRESHOLD: tl.constexpr, INVERSE: tl.constexpr, MAXIMA: tl.constexpr,
                           ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """Some columns of one share of the rows a program, all that depends on these columns in registers.

    Writes the gradients of gate and up (T, 2·F); per column block that of h, (blocks, T, KR), and the rows' largest
    magnitudes (blocks, T); per share those of the b's, (shares, F, R), and of the down adapter's a, (shares, R, F).
    Partial sums are added afterwards, in a fixed order: runs repeat themselves.
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
        sum_b_gate = tl.zeros((COLUMNS, BLOCK_R), tl.float32)
    if UP >= 0:
        b_u = load_up(b_up, columns, F, R, BLOCK_R)
        sum_b_up = tl.zeros((COLUMNS, BLOCK_R), tl.float32)
    if DOWN:
        a = load_down(a_down, columns, F, R, BLOCK_R)
        sum_a = tl.zeros((COLUMNS, BLOCK_R), tl.float32)
    # Tiles lie at 32-bit offsets from a base that moves: pointers for each element would take the registers.
    within = tl.arange(0, ROWS)[:, None]
    at, at_g = within * (2 * F) + columns[None, :], within * F + columns[None, :]
    for start in range(share * height, min(share * height + height, T), ROWS):
        rows = start + tl.arange(0, ROWS)
        first = tl.cast(start, tl.int64)
        gate = tl.load(gate_up + first * (2 * F) + at, mask=mask, other=0.0).to(tl.float32)
        up = tl.load(gate_up + first * (2 * F) + F + at, mask=mask, other=0.0).to(tl.float32)
        incoming = tl.load(g + first * F + at_g, mask=mask, other=0.0).to(tl.float32)
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
                kept = keep(rows, columns, F, seeds, first_adapter, THRESHOLD)
                part = tl.where(kept, part * INVERSE, 0.0)
            incoming += part
        sigmoid = tl.sigmoid(gate)
        active = gate * sigmoid
        if DOWN:
            made = active * up
            if THRESHOLD > 0:
                made = tl.where(kept, made * INVERSE, 0.0)
            sum_a += tl.dot(tl.trans(made.to(dtype)), state, input_precision="ieee")
        g_up = (incoming * active).to(dtype)
        g_gate = (incoming * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))).to(dtype)
        tl.store(out + first * (2 * F) + at, g_gate, mask=mask)
        tl.store(out + first * (2 * F) + F + at, g_up, mask=mask)
        at_h = part_h + (block * T + rows[:, None]) * KR + r[None, :]
        if GATE >= 0:
            sum_b_gate += tl.dot(tl.trans(g_gate), h_g, input_precision="ieee")
            tl.store(at_h + GATE, tl.dot(g_gate, tl.trans(b_g), input_precision="ieee") * scale, mask=r[None, :] < R)
        if UP >= 0:
            sum_b_up += tl.dot(tl.trans(g_up), h_u, input_precision="ieee")
            tl.store(at_h + UP, tl.dot(g_up, tl.trans(b_u), input_precision="ieee") * scale, mask=r[None, :] < R)
        if MAXIMA:
            largest = tl.maximum(tl.abs(g_gate.to(tl.float32)), tl.abs(g_up.to(tl.float32)))
            tl.store(maxima + block * T + rows, tl.max(largest, 1))
    mask_b = (columns[:, None] < F) & (r[None, :] < R)
    at_b = (share * F + columns[:, None]) * R + r[None, :]
    if GATE >= 0:
        tl.store(part_b_gate + at_b, sum_b_gate * scale, mask=mask_b)
    if UP >= 0:
        tl.store(part_b_up + at_b, sum_b_up * scale, mask=mask_b)
    if DOWN:
        tl.store(part_a + (share * R + r[None, :]) * F + columns[:, None], sum_a, mask=mask_b)
