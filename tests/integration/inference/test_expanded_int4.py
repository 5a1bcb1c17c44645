"""The kernel for processors without int4 products."""

from __future__ import annotations

import importlib
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from finery_inference.engines.vllm import int4
from finery_inference.engines.vllm.hardware import is_cpu_build
from finery_shared.processor import lacks_avx512

ROWS, COLUMNS, GROUP = 96, 128, 32
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight columns stands at each place of a word, the lowest bits first."""

pytestmark = pytest.mark.skipif(not is_cpu_build(), reason="vLLM computes on a GPU")


@pytest.fixture(scope="module")
def vllm() -> Any:
    """The parts of vLLM that are needed, imported without its warnings."""
    with warnings.catch_warnings(action="ignore"):
        kernels = importlib.import_module("vllm.model_executor.kernels.linear.mixed_precision")
        awq = importlib.import_module("vllm.model_executor.layers.quantization.auto_awq")
        return SimpleNamespace(
            ours=importlib.import_module("finery_inference.engines.vllm.expanded_int4"),
            kernels=importlib.import_module("vllm.model_executor.kernels.linear"),
            quantization=importlib.import_module("vllm.model_executor.layers.quantization"),
            config=kernels.MPLinearLayerConfig,
            to_common_format=awq._convert_awq_to_standard_format,
            types=importlib.import_module("vllm.scalar_type").scalar_types,
            platform=importlib.import_module("vllm.platforms").current_platform,
        )


def awq_packed(values: Tensor) -> Tensor:
    """Numbers below 16, int32 [rows, columns], as AutoAWQ packs them: [rows, columns / 8]."""
    words = values.reshape(values.shape[0], -1, 8)[:, :, AWQ_ORDER]
    return (words << (4 * torch.arange(8, dtype=torch.int32))).sum(2, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_weights_that_were_packed(
    vllm: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("rank", 0), ("world_size", 1)):
        monkeypatch.setattr(
            f"vllm.model_executor.parameter.get_tensor_model_parallel_{name}", lambda value=value: value
        )
    random = torch.Generator().manual_seed(0)
    values = torch.randint(0, 16, (COLUMNS, ROWS), generator=random, dtype=torch.int32)
    zeros = torch.randint(0, 16, (COLUMNS // GROUP, ROWS), generator=random, dtype=torch.int32)
    scales = torch.rand(COLUMNS // GROUP, ROWS, generator=random).to(dtype)
    weight = ((values - zeros.repeat_interleave(GROUP, 0)) * scales.repeat_interleave(GROUP, 0)).float()
    layer = torch.nn.Module()
    for name, tensor in (("qweight", awq_packed(values)), ("qzeros", awq_packed(zeros)), ("scales", scales)):
        layer.register_parameter(name, torch.nn.Parameter(tensor, requires_grad=False))
    shape = (COLUMNS, ROWS)
    config = vllm.config(shape, shape, vllm.types.uint4, dtype, GROUP, zero_points=True)
    assert vllm.ours.ExpandedInt4Kernel.can_implement(config) == (True, None)
    kernel = vllm.ours.ExpandedInt4Kernel(config, "qweight", "scales", "qzeros")
    vllm.to_common_format(layer, "qweight", "qzeros", 4)
    kernel.process_weights_after_loading(layer)
    x, bias = (torch.randn(*size, generator=random).to(dtype) for size in ((5, COLUMNS), (ROWS,)))
    product = kernel.apply_weights(layer, x, bias)
    assert product.dtype == dtype
    expected = x.float() @ weight + bias.float()
    tolerance = 1e-4 if dtype == torch.float32 else 2**-7 * float(expected.abs().max())
    torch.testing.assert_close(product.float(), expected, rtol=0, atol=tolerance)
    assert not {"qweight", "qzeros", "scales"} & dict(layer.named_parameters()).keys()


@pytest.mark.parametrize(("kind", "zero_points"), [("uint4b8", False), ("uint8", True)])
def test_other_formats_are_left_to_others(vllm: Any, kind: str, zero_points: bool) -> None:
    shape = (COLUMNS, ROWS)
    config = vllm.config(shape, shape, getattr(vllm.types, kind), torch.float32, GROUP, zero_points)
    assert vllm.ours.ExpandedInt4Kernel.can_implement(config)[0] is False


def test_once_registered_awq_is_computed_by_it_and_may_be_in_fp32(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = vllm.platform._enum
    for table, key, before in (
        (vllm.kernels._POSSIBLE_KERNELS, cpu, [vllm.kernels.CPUWNA16LinearKernel]),
        (vllm.quantization._CUSTOMIZED_METHOD_TO_QUANT_CONFIG, "awq", None),
    ):
        monkeypatch.setitem(table, key, before)
    monkeypatch.setenv("VLLM_DISABLED_KERNELS", "")
    vllm.ours.register()
    shape = (COLUMNS, ROWS)
    config = vllm.config(shape, shape, vllm.types.uint4, torch.float32, GROUP, zero_points=True)
    assert vllm.kernels.choose_mp_linear_kernel(config) is vllm.ours.ExpandedInt4Kernel
    assert torch.float32 in vllm.quantization.get_quantization_config("awq").get_supported_act_dtypes()


def test_nothing_is_registered_where_vllm_has_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int4, "lacks_avx512", lambda: False)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"imports {name}"))
    int4.register_where_needed()


def test_vllm_has_int4_products_where_this_is_not_used(vllm: Any) -> None:
    vllm.platform.import_kernels()
    assert hasattr(torch.ops._C, "cpu_gemm_wna16") is not lacks_avx512()
