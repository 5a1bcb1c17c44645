import pytest
import torch

from finery_quantizer.backends.awq.rounding import MAX_CODE, decode, encode, fit_grid, round_trip


@pytest.mark.parametrize("group", [32, 64, 128])
def test_no_value_moves_by_more_than_half_a_step(group: int) -> None:
    weight = torch.randn(48, 256, generator=torch.Generator().manual_seed(0))
    step = fit_grid(weight, group).scale.repeat_interleave(group, 1)
    # A zero point is a whole number, so a group's end may lie up to half a step outside the grid.
    assert ((round_trip(weight, group) - weight).abs() <= step * 1.001).all()
    inside = (round_trip(weight, group) - weight).abs() <= step * 0.5001
    assert inside.float().mean() > 0.95


def test_what_is_on_the_grid_stays() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    grid = fit_grid(weight, 64, torch.bfloat16)
    once = decode(encode(weight, grid), grid)
    torch.testing.assert_close(decode(encode(once, grid), grid), once, rtol=0, atol=0)


def test_codes_and_zeros_are_four_bits_and_scales_are_storable() -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0)) + 3  # a group without a zero in it
    grid = fit_grid(weight, 64, torch.bfloat16)
    codes = encode(weight, grid)
    assert codes.shape == (16, 2, 64)
    for values in (codes, grid.zero):
        assert values.min() >= 0
        assert values.max() <= MAX_CODE
        assert torch.equal(values, values.round())
    assert torch.equal(grid.scale, grid.scale.bfloat16().float())
