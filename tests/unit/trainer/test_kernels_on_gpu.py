"""Each Triton kernel against plain torch in fp32. Skipped where there is no GPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from finery_trainer.recipes.fused.operations import Down, Dropout, GatedGradients, HeadNorm, Operations, Rotation, Up
from finery_trainer.recipes.fused.torch_operations import TorchOperations, keep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TOKENS, WIDTH, INNER, VOCABULARY = 192, 512, 1408, 5003
ROUNDING = 8e-3
"""Relative error of a tensor whose values were rounded to bf16 a few times."""

RANKS = pytest.mark.parametrize("rank", [8, 16])
DROPOUTS = pytest.mark.parametrize("probability", [None, 0.05, 0.5])


@pytest.fixture(autouse=True)
def a_seed() -> None:
    torch.manual_seed(0)


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, device="cuda") * scale).to(torch.bfloat16)


def an_up(rank: int, out: int, parts: int = 1, offset: int = 0) -> Up:
    return Up(random(TOKENS, parts * rank), offset, random(out, rank, scale=0.3), 4.0)


def a_dropout(probability: float | None, first: int = 3) -> Dropout | None:
    if probability is None:
        return None
    return Dropout(probability, torch.randint(2**31 - 1, (2,), dtype=torch.int32).cuda(), first)


def a_down(rank: int, parts: int, width: int, probability: float | None) -> Down:
    return Down(random(TOKENS, parts * rank), random(parts * rank, width, scale=0.3), rank, a_dropout(probability))


def kernels() -> Operations:
    """What is tested. Imported here: Triton is not everywhere."""
    from finery_trainer.recipes.fused.triton_operations import TritonOperations

    return TritonOperations(torch.bfloat16)


def exactly() -> Operations:
    """What it is compared with."""
    return TorchOperations(torch.float32)


def single(value: Any) -> Any:
    """The same in fp32, copied: operations may reuse what they are given."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value.clone()
    if isinstance(value, Up):
        return replace(value, h=value.h.float(), b=value.b.float())
    if isinstance(value, Down):
        return replace(value, g=value.g.float(), a=value.a.float())
    if isinstance(value, Rotation):
        return Rotation(value.cos.float(), value.sin.float())
    if isinstance(value, HeadNorm):
        return HeadNorm(value.weight.float(), value.eps)
    return value


def copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def both(name: str, *args: Any, **options: Any) -> tuple[Any, Any]:
    """An operation by the kernel in bf16, and by torch in fp32 on the same numbers."""
    kernel = getattr(kernels(), name)(*map(copied, args), **options)
    exact = getattr(exactly(), name)(*map(single, args), **options)
    return kernel, exact


def agree(found: Tensor | None, exact: Tensor | None, bound: float = ROUNDING) -> None:
    assert (found is None) == (exact is None)
    if found is None or exact is None:
        return
    assert found.shape == exact.shape
    assert torch.isfinite(found.float()).all()
    assert float((found.float() - exact.float()).norm() / exact.float().norm()) < bound


def test_norm() -> None:
    found, exact = both("norm", random(TOKENS, WIDTH), random(WIDTH), 1e-6)
    agree(found[0], exact[0])
    agree(found[1], exact[1], 1e-4)


@RANKS
@DROPOUTS
def test_norm_backward(rank: int, probability: float | None) -> None:
    x, weight = random(TOKENS, WIDTH), random(WIDTH)
    inverse = torch.rsqrt(x.float().pow(2).mean(-1) + 1e-6)
    down = a_down(rank, 3, WIDTH, probability)
    agree(*both("norm_backward", random(TOKENS, WIDTH), down, x, inverse, weight, random(TOKENS, WIDTH)))


@RANKS
@pytest.mark.parametrize("adapted", [True, False])
def test_residual(rank: int, adapted: bool) -> None:
    up = an_up(rank, WIDTH) if adapted else None
    agree(*both("residual", random(TOKENS, WIDTH), random(TOKENS, WIDTH), up))


def rotation(size: int) -> Rotation:
    angles = torch.rand(TOKENS, size // 2, device="cuda") * 6
    angles = torch.cat([angles, angles], -1)
    return Rotation(angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16))


@RANKS
@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("adapted", [True, False])
def test_heads_and_their_gradients(rank: int, size: int, heads: int, normed: bool, adapted: bool) -> None:
    up = an_up(rank, heads * size, parts=3, offset=rank) if adapted else None
    norm = HeadNorm(random(size), 1e-6) if normed else None
    turned, y, g = rotation(size), random(TOKENS, heads, size), random(TOKENS, heads, size)
    agree(*both("heads", y, up, turned, norm))
    found, exact = {}, {}
    for results, dtype in ((found, torch.bfloat16), (exact, torch.float32)):
        results["out"] = torch.full((TOKENS, heads * size), torch.nan, device="cuda", dtype=dtype)
        results["h"] = torch.full((TOKENS, rank), torch.nan, device="cuda", dtype=dtype) if adapted else None
    found["b"] = kernels().heads_backward(
        g.clone(), y.clone() if normed else None, up, turned, norm, found["out"], found["h"]
    )
    exact["b"] = exactly().heads_backward(
        single(g), single(y) if normed else None, single(up), single(turned), single(norm), exact["out"], exact["h"]
    )
    for name in ("out", "h", "b"):
        agree(found[name], exact[name])


@RANKS
@pytest.mark.parametrize("adapted", ["both", "gate", "up", "neither"])
def test_swiglu(rank: int, adapted: str) -> None:
    parts = 2 if adapted == "both" else 1
    gate = an_up(rank, INNER, parts) if adapted in ("both", "gate") else None
    up = an_up(rank, INNER, parts, rank * (parts - 1)) if adapted in ("both", "up") else None
    if gate is not None and up is not None:
        up = replace(up, h=gate.h)
    agree(*both("swiglu", random(TOKENS, 2 * INNER), gate, up))


@RANKS
@DROPOUTS
@pytest.mark.parametrize("adapted", [True, False])
def test_swiglu_backward(rank: int, probability: float | None, adapted: bool) -> None:
    gate = an_up(rank, INNER, 2) if adapted else None
    up = replace(an_up(rank, INNER, 2, rank), h=gate.h) if gate is not None else None
    down = a_down(rank, 1, INNER, probability)
    args = (random(TOKENS, INNER), down, random(TOKENS, 2 * INNER), gate, up)
    found, exact = both("swiglu_backward", *args, maxima=True)
    assert isinstance(found, GatedGradients)
    for name in ("gate_up", "h", "a_down", "b_gate", "b_up"):
        agree(getattr(found, name), getattr(exact, name))
    largest = found.gate_up.float().abs().amax(-1)
    agree(found.row_maxima.amax(0), largest)


@RANKS
@DROPOUTS
@pytest.mark.parametrize("parts", [1, 3])
def test_down_and_its_gradient(rank: int, probability: float | None, parts: int) -> None:
    dropout, x = a_dropout(probability), random(TOKENS, WIDTH)
    agree(*both("down", x, random(parts * rank, WIDTH), rank, dropout))
    agree(*both("down_backward", random(TOKENS, parts * rank), x, rank, dropout))


@RANKS
@DROPOUTS
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_add_down(rank: int, probability: float | None, parts: int) -> None:
    agree(*both("add_down", random(TOKENS, WIDTH), a_down(rank, parts, WIDTH, probability)))


@RANKS
@pytest.mark.parametrize("width", [WIDTH, 160])
def test_up_backward(rank: int, width: int) -> None:
    up, g = an_up(rank, width, parts=2, offset=rank), random(TOKENS, width)
    found_h, exact_h = (torch.full((TOKENS, rank), torch.nan, device="cuda", dtype=t) for t in (g.dtype, torch.float32))
    found = kernels().up_backward(g.clone(), up, found_h)
    agree(found, exactly().up_backward(single(g), single(up), exact_h))
    agree(found_h, exact_h)


def test_the_mask_is_the_one_that_torch_computes() -> None:
    dropout = a_dropout(0.3)
    assert dropout is not None
    ones, eye = torch.ones(64, 64, dtype=torch.bfloat16, device="cuda"), torch.eye(64, device="cuda")
    kept = kernels().down(ones, eye.to(torch.bfloat16)[:16], 16, dropout) > 0
    assert torch.equal(kept, keep((64, 64), 0.3, dropout.seeds, dropout.first)[:, :16])


@pytest.mark.parametrize("width", [WIDTH, INNER])
@pytest.mark.parametrize("given", [True, False])
def test_rows_in_e4m3(width: int, given: bool) -> None:
    x = random(TOKENS, width)
    maxima = x.float().abs().view(TOKENS, -1, 32).amax(-1).t().contiguous() if given else None
    (found, found_scale), (exact, exact_scale) = both("quantize", x, maxima)
    agree(found_scale, exact_scale, 1e-6)
    # Equal but for values that lie between two, which another order of operations can round the other way.
    assert float((found.float() != exact.float()).float().mean()) < 0.01
    agree(found.float() * found_scale, x, 0.04)


def test_scaled_product() -> None:
    x, w = random(TOKENS, WIDTH), random(256, WIDTH)
    plain = exactly()
    rows, weights = plain.quantize(single(x)), plain.quantize(single(w))
    found = kernels().scaled_product(*rows, *weights, None)
    exact = (rows[0].float() * rows[1]) @ (weights[0].float() * weights[1]).t()
    agree(found, exact)


def test_cross_entropy_and_its_gradient() -> None:
    logits = random(TOKENS, VOCABULARY, scale=3.0)
    targets = torch.randint(VOCABULARY, (TOKENS,), device="cuda")
    targets[::5] = -1
    found, exact = both("cross_entropy", logits, targets)
    agree(found[0], exact[0], 1e-4)
    agree(found[1], exact[1])
    assert not found[1][::5].any()
