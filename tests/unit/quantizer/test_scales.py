import torch

from finery_quantizer.backends.awq.rounding import round_trip
from finery_quantizer.backends.awq.scales import RATIOS, best, candidate_scales, rounded
from finery_quantizer.backends.awq.statistics import InputStatistics

GROUP = 64


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(700, 256) * (torch.rand(256).pow(4) * 8 + 0.01), torch.randn(96, 256) / 16


def test_candidates_follow_autoawqs_formula() -> None:
    inputs, weight = data()
    found = candidate_scales(inputs.abs().mean(0), [weight[:32], weight[32:]], GROUP)
    assert len(found) == RATIOS
    groups = weight.view(-1, GROUP)
    w_mean = (groups.abs() / (groups.abs().amax(dim=1, keepdim=True) + 1e-6)).view(weight.shape).mean(0)
    ratio = 7 / RATIOS
    expected = (inputs.abs().mean(0).pow(ratio) / (w_mean.pow(1 - ratio) + 1e-4)).clamp(min=1e-4)
    torch.testing.assert_close(found[7], expected / (expected.max() * expected.min()).sqrt())


def test_dead_channels_get_finite_scales() -> None:
    inputs, weight = data()
    inputs[:, 3] = 0
    weight[:, 5] = 0
    for scale in candidate_scales(inputs.abs().mean(0), [weight], GROUP):
        assert torch.isfinite(scale).all()
        assert (scale > 0).all()


def test_candidates_come_rounded_in_the_weights_dtype() -> None:
    _, weight = data()
    scales = [torch.ones(256), torch.rand(256) + 0.5]
    before = weight.clone()
    (plain,), (scaled,) = rounded([weight], scales, GROUP)
    assert torch.equal(plain, round_trip(weight, GROUP))
    torch.testing.assert_close(scaled, round_trip(weight * scales[1], GROUP) / scales[1])
    assert torch.equal(weight, before)
    assert next(rounded([weight.bfloat16()], scales, GROUP))[0].dtype == torch.bfloat16


def test_the_best_come_first_and_nan_never_wins() -> None:
    assert best(torch.tensor([3.0, torch.nan, 1.0, 2.0, torch.inf]), 3) == [2, 3, 0]


def test_statistics_of_chunks_are_those_of_the_whole() -> None:
    inputs, _ = data()
    parts = InputStatistics(2100)
    for part in inputs.repeat(3, 1).split([250, 1, 849, 1000]):
        parts.add(part.unsqueeze(0))
    torch.testing.assert_close(parts.mean, inputs.abs().mean(0))
    assert torch.equal(parts.sample, inputs.repeat(3, 1)[:: 2100 // 512])
