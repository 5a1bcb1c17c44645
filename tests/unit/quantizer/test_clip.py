import torch

from finery_quantizer.backends.awq.clip import SHRINKS, STEP, clip, group_grams, is_clipped, search_clip
from finery_quantizer.backends.awq.rounding import round_trip

GROUP = 64


def data(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    inputs = torch.randn(tokens, 256) * torch.rand(256).pow(4) * 8
    return inputs, torch.randn(96, 256) / 16


def direct(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """AutoAWQ's form: every token times every weight, group by group."""
    x, w = inputs.unflatten(1, (-1, GROUP)), weight.unflatten(1, (-1, GROUP))
    top = w.abs().amax(-1, keepdim=True)
    errors = []
    for step in range(SHRINKS):
        bound = top * (1 - step * STEP)
        rounded = round_trip(w.clamp(-bound, bound).flatten(1), GROUP).view_as(w)
        change = torch.einsum("tgi,ogi->tog", x, rounded) - torch.einsum("tgi,ogi->tog", x, w)
        errors.append(change.square().mean(0))
    return torch.stack(errors)


def test_gram_form_finds_the_bounds_of_the_direct_form() -> None:
    inputs, weight = data(400)
    errors = direct(inputs, weight)
    bound = search_clip(weight, group_grams(inputs, GROUP), GROUP)
    top = weight.unflatten(1, (-1, GROUP)).abs().amax(-1)
    picked = ((1 - bound.squeeze(-1) / top) / STEP).round().long()
    agree = (picked == errors.argmin(0)).float().mean()
    assert agree >= 0.99
    chosen = errors.gather(0, picked.unsqueeze(0)).squeeze(0)  # where they differ, it is a tie
    torch.testing.assert_close(chosen, errors.amin(0), rtol=1e-3, atol=0)


def test_clipping_lowers_the_output_error() -> None:
    inputs, weight = data(400)
    clipped = clip(weight, search_clip(weight, group_grams(inputs, GROUP), GROUP))

    def error(w: torch.Tensor) -> float:
        return float((inputs @ (round_trip(w, GROUP) - weight).t()).square().mean())

    assert error(clipped) < 0.9 * error(weight)


def test_queries_and_keys_are_left_alone() -> None:
    assert [
        n for n in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj") if is_clipped(n)
    ] == [
        "self_attn.v_proj",
        "mlp.up_proj",
    ]
