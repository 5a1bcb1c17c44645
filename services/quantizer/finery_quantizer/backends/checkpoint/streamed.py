"""A causal language model whose decoder layers are in memory one at a time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from finery_quantizer.backends.checkpoint.config import load_config
from finery_quantizer.backends.checkpoint.shards import MappedTensors
from finery_shared.errors import FineryError, Reason


class TensorSource(Protocol):
    """Where a model's tensors come from."""

    def names(self) -> frozenset[str]:
        """All names, as in the model's state."""

    def get(self, name: str) -> Tensor:
        """One tensor, on the CPU."""


class StreamedModel:
    """The model of `directory` without its decoder layers, and these on demand.

    What is outside the layers (embeddings, last norm, head) stays on the CPU, mapped from the files.
    """

    def __init__(
        self, directory: Path, device: torch.device, dtype: torch.dtype, tensors: TensorSource | None = None
    ) -> None:
        self.device = device
        self.dtype = dtype
        with init_empty_weights(include_buffers=False):
            self.model: PreTrainedModel = AutoModelForCausalLM.from_config(
                load_config(directory), attn_implementation="sdpa", torch_dtype=dtype
            )
        self._tensors = self.prepare(tensors or MappedTensors(directory))
        self.model.requires_grad_(False).eval()
        self.layers = _decoder_layers(self.model)
        names = {id(module): name for name, module in self.model.named_modules()}
        self.names = [names[id(layer)] for layer in self.layers]
        """Of the layers, as in the files."""
        self._load_rest(directory)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="layers")
        self._fetched: dict[int, Future[dict[str, Tensor]]] = {}

    def prepare(self, tensors: TensorSource) -> TensorSource:
        """Called with the model before any of its tensors is there; where they come from. For those that change it."""
        return tensors

    def placed(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of a layer, by its name there, as it is computed with."""
        moved = tensor.to(self.device, non_blocking=True)
        return moved.to(self.dtype) if moved.is_floating_point() else moved

    def layer(self, index: int) -> nn.Module:
        """Decoder layer `index` on the device, in the model's dtype; the next one is read meanwhile."""
        state = self._fetch(index).result()
        del self._fetched[index]
        if index + 1 < len(self.layers):
            self._fetch(index + 1)
        placed = {name: self.placed(name, tensor) for name, tensor in state.items()}
        self.layers[index].load_state_dict(placed, assign=True)
        return self.layers[index]

    def whole(self) -> PreTrainedModel:
        """The model with all its layers, on the device."""
        for index in range(len(self.layers)):
            self.layer(index)
        return self.model.to(self.device, self.dtype)

    def release(self, index: int) -> None:
        """Forget the weights of layer `index`."""
        self.layers[index].to("meta")

    @contextmanager
    def past_layers(self) -> Iterator[Callable[[Tensor, Tensor], Tensor]]:
        """Within it, a function gives the logits [rows, length, vocabulary] of token ids [rows, length] for the last
        layer's output [rows, length, hidden]: the model's own way from there, whatever it does to logits.
        """
        layers = list(self.layers)
        given = _Given()
        for index in range(len(layers)):
            self.layers[index] = given
        self.model.to(self.device, self.dtype)

        def logits(ids: Tensor, hidden: Tensor) -> Tensor:
            given.hidden = hidden
            result: Tensor = self.model(ids.to(self.device), use_cache=False).logits
            return result

        try:
            yield logits
        finally:
            for index, layer in enumerate(layers):
                self.layers[index] = layer

    def state(self, index: int) -> dict[str, Tensor]:
        """The tensors of layer `index` by their names in it, on the CPU, as they come from the source."""
        prefix = f"{self.names[index]}."
        names = sorted(name for name in self._tensors.names() if name.startswith(prefix))
        return {name.removeprefix(prefix): self._tensors.get(name) for name in names}

    def _fetch(self, index: int) -> "Future[dict[str, Tensor]]":
        if index not in self._fetched:
            self._fetched[index] = self._pool.submit(self._read, index)
        return self._fetched[index]

    def _read(self, index: int) -> dict[str, Tensor]:
        state = self.state(index)
        # A page-locked copy is read from the disk by now, and goes to the device while that computes.
        return {name: t.pin_memory() for name, t in state.items()} if self.device.type == "cuda" else state

    def _load_rest(self, directory: Path) -> None:
        """Give the parameters outside the layers their values, mapped from the files."""
        found, wanted = self._tensors.names(), set(self.model.state_dict())
        tied = self.model.config.tie_word_embeddings and bool(set(self.model._tied_weights_keys or ()) & wanted - found)
        if tied:
            wanted -= set(self.model._tied_weights_keys) - found
        for problem, names in (("missing keys", wanted - found), ("unexpected keys", found - wanted)):
            if names:
                listed = ", ".join(sorted(names)[:5])
                raise FineryError(Reason.MODEL_INVALID, f"{directory}: {problem} in its weights: {listed}.")
        within = tuple(f"{name}." for name in self.names)
        state = {name: self._tensors.get(name) for name in found if not name.startswith(within)}
        self.model.load_state_dict(state, strict=False, assign=True)
        if tied:
            self.model.tie_weights()


class _Given(nn.Module):  # type: ignore[misc]  # torch is not checked
    """Stands for a decoder layer whose output is known."""

    hidden: Tensor

    def forward(self, *_args: object, **_kwargs: object) -> tuple[Tensor]:
        """The output as a decoder layer returns it."""
        return (self.hidden,)


def _decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of decoder layers: the first one as long as the configuration says."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == model.config.num_hidden_layers]
    if not lists:
        name = type(model).__name__
        raise FineryError(Reason.UNSUPPORTED, f"{name} has no list of decoder layers: it can't be quantized.")
    return lists[0]
