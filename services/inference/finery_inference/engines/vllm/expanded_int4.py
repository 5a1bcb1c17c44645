"""AWQ models on an x86 processor without AVX512.

vLLM's build for those has no int4 product, though its kernel says that it fits, and the engine dies at its first step.
This kernel multiplies the weights out once, when they are loaded. From then on the model is as large and as fast as one
that was never quantized, and fp32, the type in which such a processor is fastest, is allowed.
"""

from __future__ import annotations

import os

import torch
from torch.nn import Module, Parameter
from vllm.model_executor.kernels.linear import register_linear_kernel
from vllm.model_executor.kernels.linear.mixed_precision import CPUWNA16LinearKernel, MPLinearKernel, MPLinearLayerConfig
from vllm.model_executor.layers.quantization import register_quantization_config
from vllm.model_executor.layers.quantization.auto_awq import AutoAWQConfig
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.platforms import PlatformEnum
from vllm.scalar_type import scalar_types


def register() -> None:
    """Put the kernel in the place of vLLM's."""
    register_linear_kernel(ExpandedInt4Kernel, PlatformEnum.CPU)
    register_quantization_config("awq")(ExpandedAwqConfig)
    disabled = os.environ.get("VLLM_DISABLED_KERNELS", "").split(",")
    os.environ["VLLM_DISABLED_KERNELS"] = ",".join(filter(None, {*disabled, CPUWNA16LinearKernel.__name__}))


class ExpandedAwqConfig(AutoAWQConfig):  # type: ignore[misc]
    """AWQ with fp32 among the types to compute in."""

    @classmethod
    def get_supported_act_dtypes(cls) -> list[torch.dtype]:
        """vLLM's, and fp32."""
        return [*super().get_supported_act_dtypes(), torch.float32]


class ExpandedInt4Kernel(MPLinearKernel):  # type: ignore[misc]
    """Products of weights that were int4 in groups, with a zero point for each, as AutoAWQ makes them."""

    @classmethod
    def get_min_capability(cls) -> int:
        """Of a GPU: none is needed."""
        return -1

    @classmethod
    def can_implement(cls, c: MPLinearLayerConfig) -> tuple[bool, str | None]:
        """Whether a layer is of that kind, else why not."""
        if c.weight_type != scalar_types.uint4 or not c.zero_points:
            return False, "only int4 with zero points, AWQ's format, is multiplied out"
        return True, None

    def process_weights_after_loading(self, layer: Module) -> None:
        """From vLLM's common format, weights [in / 8, out] and zero points [out / 8, groups], to a weight [out, in]."""
        packed, scales, packed_zeros = self._get_weight_params(layer)
        assert packed_zeros is not None  # see can_implement
        kind = self.config.weight_type
        values = unpack_quantized_values_into_int32(packed.data, kind, packed_dim=0).t()
        zeros = unpack_quantized_values_into_int32(packed_zeros.data, kind, packed_dim=0)
        rows, columns = values.shape
        groups = zeros.shape[1]
        grouped = values.reshape(rows, groups, columns // groups) - zeros.unsqueeze(2)
        weight = grouped * scales.data.t().unsqueeze(2)
        for name in (self.w_q_name, self.w_s_name, self.w_zp_name):
            delattr(layer, str(name))
        layer.weight = Parameter(weight.reshape(rows, columns).contiguous(), requires_grad=False)
        dispatch_cpu_unquantized_gemm(layer, remove_weight=True)

    def apply_weights(self, layer: Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """`x` [..., in] times the weight: [..., out]."""
        product: torch.Tensor = layer.cpu_linear(x, layer.weight, bias)
        return product
