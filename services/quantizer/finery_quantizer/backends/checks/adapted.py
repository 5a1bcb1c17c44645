"""A base model with a PEFT adapter on top, a layer of which is in memory at a time."""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftConfig, inject_adapter_in_model
from torch import Tensor

from finery_quantizer.backends.checkpoint.shards import MappedTensors
from finery_quantizer.backends.checkpoint.streamed import StreamedModel, TensorSource
from finery_quantizer.backends.lora.adapter import WEIGHTS

_OURS = "default"
"""Under this name PEFT keeps the only adapter of a model."""
_FILED_UNDER = "base_model.model."


class AdaptedModel(StreamedModel):
    """`base` computed by PEFT with an adapter that is not merged. The adapter stays in its own dtype."""

    def __init__(self, base: Path, adapter: Path, device: torch.device, dtype: torch.dtype) -> None:
        self._adapter = adapter
        super().__init__(base, device, dtype)

    def prepare(self, tensors: TensorSource) -> TensorSource:
        """See StreamedModel."""
        names = {id(module): name for name, module in self.model.named_modules()}
        ends = (self.model.get_output_embeddings(), self.model.get_input_embeddings())
        head, embeddings = (f"{names[id(module)]}.weight" for module in ends)
        config = PeftConfig.from_pretrained(str(self._adapter))
        config.inference_mode = True
        inject_adapter_in_model(config, self.model, low_cpu_mem_usage=True)
        adapter = MappedTensors(self._adapter, WEIGHTS)
        return _AdaptedTensors(tensors, adapter, frozenset(self.model.state_dict()), {head: embeddings})

    def placed(self, name: str, tensor: Tensor) -> Tensor:
        """See StreamedModel."""
        return tensor.to(self.device) if "lora_" in name else super().placed(name, tensor)


class _AdaptedTensors:
    """The tensors of a model that PEFT has changed, by the names that they have in it now."""

    def __init__(
        self, base: TensorSource, adapter: MappedTensors, names: frozenset[str], tied: Mapping[str, str]
    ) -> None:
        self._base = base
        self._adapter = adapter
        self._names = names
        self._tied = tied

    def names(self) -> frozenset[str]:
        """All names."""
        return self._names

    def get(self, name: str) -> Tensor:
        """One tensor."""
        filed = _FILED_UNDER + name.replace(f".{_OURS}", "").replace(".modules_to_save.", ".")
        if ".original_module." not in name:
            for key in (filed, filed.removesuffix(".weight")):  # PEFT files magnitudes without the suffix
                if key in self._adapter.names():
                    return self._adapter.get(key)
        bare = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        # A head that the base has no tensor for is its embeddings, whatever the adapter makes of these.
        return self._base.get(bare if bare in self._base.names() else self._tied[bare])
