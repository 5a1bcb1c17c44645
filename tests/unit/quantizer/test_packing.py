import warnings

import pytest
import torch
from torch import nn

from finery_quantizer.backends.awq.packing import pack, pack_words, unpack, unpack_words
from finery_quantizer.backends.awq.rounding import fit_grid, round_trip

with warnings.catch_warnings(record=True):
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm


@pytest.mark.parametrize(("out", "width", "group"), [(64, 128, 64), (32, 256, 128), (96, 96, 32)])
def test_packed_tensors_are_autoawqs_own_bit_by_bit(out: int, width: int, group: int) -> None:
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(out)).half()
    grid = fit_grid(weight, group, torch.float16)
    packed = pack(weight, grid, torch.float16)
    linear = nn.Linear(width, out, bias=False, dtype=torch.float16)
    linear.weight.data = round_trip(weight, group, torch.float16)
    scales = grid.scale.t().contiguous()
    theirs = WQLinear_GEMM.from_linear(linear, 4, group, scales=scales, zeros=grid.zero.t().contiguous())
    assert torch.equal(packed.qweight, theirs.qweight)
    assert torch.equal(packed.qzeros, theirs.qzeros)
    assert torch.equal(packed.scales, theirs.scales)


def test_unpacking_gives_the_rounded_weight_exactly_and_what_autoawq_dequantizes() -> None:
    weight = torch.randn(40, 128, generator=torch.Generator().manual_seed(0))
    packed = pack(weight, fit_grid(weight, 64, torch.bfloat16), torch.bfloat16)
    assert torch.equal(unpack(packed), round_trip(weight, 64, torch.bfloat16))
    theirs = dequantize_gemm(packed.qweight, packed.qzeros, packed.scales.float(), 4, 64)
    assert torch.equal(unpack(packed), theirs.t())


def test_words_hold_every_code() -> None:
    codes = torch.randint(0, 16, (7, 64), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unpack_words(pack_words(codes)), codes)
    assert pack_words(codes).shape == (7, 8)
