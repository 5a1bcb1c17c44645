"""Beside AutoAWQ 0.2.9 itself, its CPU bug mended: the same scales and the same clips for the same calibration."""

import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from finery_quantizer.backends.awq import clip
from finery_quantizer.backends.awq.mapping import load_mapping, scale_groups
from finery_quantizer.backends.awq.quantizer import quantizable
from finery_quantizer.backends.awq.search import LayerSearch
from finery_quantizer.backends.checkpoint.capture import call, first_layer_inputs, watching
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from tests.unit.quantizer.models import write_model

CPU = torch.device("cpu")
GROUP = 32
BLOCKS = torch.randint(0, 512, (6, 128), generator=torch.Generator().manual_seed(3))


def stock() -> Any:
    with warnings.catch_warnings(record=True):
        from awq.quantize.quantizer import AwqQuantizer
    made = AwqQuantizer.__new__(AwqQuantizer)
    made.group_size, made.zero_point, made.w_bit, made.duo_scaling = GROUP, True, 4, True
    made.max_chunk_memory, made.n_parallel_calib_samples = 2**30, None
    return made


@pytest.fixture
def layer(tmp_path: Path) -> tuple[nn.Module, Any, Any]:
    model = StreamedModel(write_model(tmp_path / "model", dtype=torch.float32), CPU, torch.float32)
    inputs = first_layer_inputs(model.model, model.layers[0], BLOCKS, torch.float32, CPU)
    few = first_layer_inputs(model.model, model.layers[0], BLOCKS[:2], torch.float32, CPU)
    return model.layer(0), inputs, few


def test_scales_are_those_of_autoawq(layer: tuple[nn.Module, Any, Any]) -> None:
    module, inputs, few = layer
    linears = quantizable(module, ())
    features: dict[str, Tensor] = {}
    with watching(linears, features.__setitem__):
        call(module, inputs.hidden, inputs.kwargs)
    mapping = load_mapping("llama")
    with patch.object(torch.Tensor, "cpu", torch.Tensor.clone):  # the backup must not alias the weights
        theirs = [
            stock()._search_best_scale(module, **group)[2]
            for group in mapping.get_layers_for_scaling(module, features, inputs.kwargs)
        ]
    groups = scale_groups(mapping, module, linears, inputs.kwargs)
    search = LayerSearch(module, linears, groups, GROUP)
    chunks = inputs.hidden.clone().split(2)
    search.observe(chunks, inputs, few)
    ours = search.decide(chunks, inputs, few, finalists=4)
    assert len(ours) == len(theirs) == 3  # o_proj's input can't be scaled where heads are grouped
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    assert torch.equal(torch.cat(chunks), call(module, inputs.hidden, inputs.kwargs))


def test_clips_are_those_of_autoawq(layer: tuple[nn.Module, Any, Any]) -> None:
    module, inputs, _ = layer
    seen: dict[str, Tensor] = {}
    linear = module.get_submodule("mlp.gate_proj")
    assert isinstance(linear, nn.Linear)
    with watching({"gate": linear}, seen.__setitem__):
        call(module, inputs.hidden, inputs.kwargs)
    theirs = stock()._compute_best_clip(linear.weight, seen["gate"])
    ours = clip.search_clip(linear.weight, clip.group_grams(seen["gate"].flatten(0, 1), GROUP), GROUP)
    agree = torch.isclose(ours.flatten(), theirs.flatten(), rtol=1e-4).float().mean()
    assert agree > 0.99  # the rest are ties within fp32's rounding
