import torch
from torch.nn.functional import linear

from finery_quantizer.backends.awq.scales import (
    RATIOS,
    candidate_scales,
    gram,
    gram_errors,
    scaled_round_trip,
    search_by_output,
)

GROUP = 64


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(700, 256) * (torch.rand(256).pow(4) * 8 + 0.01), torch.randn(96, 256) / 16


def test_gram_errors_are_the_direct_output_errors() -> None:
    inputs, weight = data()
    scales = candidate_scales(inputs.abs().mean(0), [weight], GROUP)
    direct = torch.stack([(inputs @ (weight - scaled_round_trip(weight, s, GROUP)).t()).square().sum() for s in scales])
    torch.testing.assert_close(gram_errors(scales, weight, gram(inputs), GROUP), direct, rtol=1e-3, atol=0)


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


def test_coarse_search_picks_what_the_full_search_picks() -> None:
    inputs, weight = data()
    scales = candidate_scales(inputs.abs().mean(0), [weight], GROUP)
    objectives = [lambda w, x=part: linear(x, w[0]) for part in inputs.split(256)]
    full = search_by_output(scales, [weight], GROUP, objectives)
    coarse = search_by_output(scales, [weight], GROUP, objectives, objectives[0], finalists=4)
    assert full == int(gram_errors(scales, weight, gram(inputs), GROUP).argmin())
    assert coarse == full


def test_scaling_beats_plain_rounding_and_the_search_reads_only() -> None:
    inputs, weight = data()
    before = weight.clone()
    scales = candidate_scales(inputs.abs().mean(0), [weight], GROUP)
    best = scales[search_by_output(scales, [weight], GROUP, [lambda w: linear(inputs, w[0])])]

    def error(scale: torch.Tensor) -> float:
        return float((inputs @ (weight - scaled_round_trip(weight, scale, GROUP)).t()).square().mean())

    assert error(best) < 0.7 * error(torch.ones(256))
    assert torch.equal(weight, before)
