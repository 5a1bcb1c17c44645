"""Reads a written AWQ model back from disk: what a serving engine would compute with."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finery_quantizer.backends.awq.packing import PackedWeight, unpack
from finery_quantizer.backends.base import WrittenModel
from finery_quantizer.backends.checkpoint.fingerprint import fingerprint
from finery_quantizer.backends.checkpoint.shards import MappedTensors
from finery_quantizer.backends.checkpoint.streamed import StreamedModel
from finery_shared.errors import FineryError, Reason

_PARTS = ("qweight", "qzeros", "scales")


class WrittenTensors:
    """The tensors of a written model by their names in its source, each compared with what was meant to be written.

    Raises GATE_FAILED, at once or when it is read, naming the first tensor that differs, is missing, or was not
    expected.
    """

    def __init__(self, written: WrittenModel) -> None:
        self._written = written
        self._mapped = MappedTensors(written.directory)
        found, expected = self._mapped.names(), written.fingerprints.keys()
        for problem, names in (("missing from its files", expected - found), ("not expected in", found - expected)):
            if names:
                raise self._failed(f"{problem}: {', '.join(sorted(names)[:5])}")

    def names(self) -> frozenset[str]:
        """All names; that of its weight for a packed linear."""
        packed = {f"{weight.removesuffix('.weight')}.{part}" for weight in self._written.quantized for part in _PARTS}
        return (self._mapped.names() - packed) | self._written.quantized

    def get(self, name: str) -> Tensor:
        """One tensor; a packed linear's weight as fp32 [out, in]."""
        return unpack(self.packed(name)) if name in self._written.quantized else self._read(name)

    def packed(self, weight: str) -> PackedWeight:
        """A linear as it is packed, by its weight's name."""
        linear = weight.removesuffix(".weight")
        return PackedWeight(**{part: self._read(f"{linear}.{part}") for part in _PARTS})

    def is_packed(self, name: str) -> bool:
        """Whether `name` is a packed linear's weight."""
        return name in self._written.quantized

    def _read(self, name: str) -> Tensor:
        tensor = self._mapped.get(name)
        if fingerprint(tensor) != self._written.fingerprints[name]:
            raise self._failed(f"{name}, read back from disk, is not what was quantized")
        return tensor

    def _failed(self, problem: str) -> FineryError:
        message = (
            f"{self._written.directory}: {problem}. The disk or another process changed it; run the job again, and "
            "check the disk if it recurs."
        )
        return FineryError(Reason.GATE_FAILED, message, gate="readback")


class PackedLinear(nn.Module):  # type: ignore[misc]  # torch is not checked
    """A linear that stays packed, where its tensors are, and is unpacked on the device of its input when it runs."""

    def __init__(self, packed: PackedWeight, bias: Tensor | None) -> None:
        super().__init__()
        self._packed = packed
        self._bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [..., in] -> [..., out]."""
        weight = unpack(self._packed.to(inputs.device)).to(inputs.dtype)
        return nn.functional.linear(inputs, weight, self._bias)


def load_written(written: WrittenModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The written model, ready to answer: unpacked on a CPU, elsewhere packed, on the device if it has the room."""
    if device.type == "cpu":
        return StreamedModel(written.directory, device, dtype, WrittenTensors(written)).whole()
    sizes = (file.stat().st_size for file in written.directory.glob("*.safetensors"))
    roomy = 1.2 * sum(sizes) < torch.cuda.mem_get_info(device)[0]
    return load_packed(written, device, dtype, home=device if roomy else torch.device("cpu"))


def load_packed(written: WrittenModel, device: torch.device, dtype: torch.dtype, home: torch.device) -> PreTrainedModel:
    """The written model on `device`, its packed linears kept on `home`."""
    tensors = WrittenTensors(written)
    model = StreamedModel(written.directory, device, dtype, tensors)
    for layer, prefix in zip(model.layers, model.names, strict=True):
        for name in [n for n, module in layer.named_modules() if isinstance(module, nn.Linear)]:
            full = f"{prefix}.{name}.weight"
            if tensors.is_packed(full):
                bias = f"{prefix}.{name}.bias"
                given = tensors.get(bias).to(device, dtype) if bias in tensors.names() else None
                layer.set_submodule(name, PackedLinear(tensors.packed(full).to(home), given))
        state = {name: tensors.get(f"{prefix}.{name}").to(dtype) for name in layer.state_dict()}
        layer.load_state_dict(state, assign=True)
    return model.model.to(device, dtype)
