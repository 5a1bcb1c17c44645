"""transformers' Trainer over packed rows: an optimizer step's rows, cut into passes by tokens rather than by rows."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from finery_trainer.recipes.collator import cut, learned, pack, pack_apart
from finery_trainer.recipes.fused.fuse import FusedModel
from finery_trainer.recipes.passes import ROW_MULTIPLE, PassLimit, pass_limit

if TYPE_CHECKING:
    from finery_trainer.recipes.rows import Row


def keep_rows(rows: Sequence[Row]) -> dict[str, Any]:
    """The collator: rows stay rows until those of the whole step are there."""
    return {"rows": tuple(rows)}


class PackedTrainer(Trainer):  # type: ignore[misc]  # transformers is not checked
    """A Trainer whose batch size and accumulation say which rows make a step, and nothing about how they are computed.

    The rows of a step are packed into as few passes as memory allows. The loss is the mean over all learned tokens of
    the step (on all ranks), so cutting never changes it. ``fused``: what `fuse` put into the model, if it did.
    """

    def __init__(
        self, *args: Any, fused: FusedModel | None = None, max_tokens: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, data_collator=keep_rows, **kwargs)
        self._fused = fused
        self._max_tokens = max_tokens
        self._limit: PassLimit | None = None
        self.tokens_seen = 0
        """Tokens of the rows that this process has trained on; nothing that was filled in counts."""

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor | None]:
        """The micro-batches of a step: all passes in the last one, unless DeepSpeed counts micro-batches itself."""
        batches = [batch["rows"] for batch in itertools.islice(epoch_iterator, num_batches)]
        rows = [row for batch in batches for row in batch]
        self.tokens_seen += sum(len(row.input_ids) for row in rows)
        count = torch.tensor(learned(rows), device=device) if rows else None
        if count is not None and self.args.world_size > 1:
            count = self.accelerator.gather(count[None]).sum()
        if self.is_deepspeed_enabled:
            return [{"passes": (self._packed(batch),)} for batch in batches], count
        passes = tuple(self._packed(group) for group in cut(rows, self.limit.tokens)) if rows else ()
        return [{"passes": ()} for _ in batches[1:]] + [{"passes": passes}] * bool(batches), count

    def training_step(
        self, model: Any, inputs: Mapping[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward over the passes; the loss of what they hold, as a share of the step's."""
        # Not ``model``: an engine of DeepSpeed's around it says that it is in training, whatever it holds.
        if not self.model.training:
            model.train()
        total = torch.zeros((), device=self.args.device)
        for i, one in enumerate(inputs["passes"]):
            last = i == len(inputs["passes"]) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                loss = self.compute_loss(model, one, num_items_in_batch=num_items_in_batch)
                options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
                self.accelerator.backward(loss, **options)
            total += loss.detach()
        return total

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum of a pass's losses over the step's number of learned tokens; times the ranks, whose mean is taken."""
        inputs = dict(inputs)
        targets = inputs.pop("shift_labels")
        inputs.pop("labels")
        if self._fused is None:
            outputs = model(**inputs, use_cache=False)
            total = torch.nn.functional.cross_entropy(outputs.logits[0].float(), targets[0], reduction="sum")
        else:
            if model.training:
                inputs["dropout_seeds"] = self._draw_seeds()
            with self._fused.head.deferred():
                outputs = model(**inputs, use_cache=False)
            total = self._fused.head.loss(outputs.logits[0], targets[0])
        count = targets.numel() if num_items_in_batch is None else num_items_in_batch
        loss = total / count * (self.args.world_size if self.model.training else 1)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Mean loss over all learned tokens of a data set, in nats."""
        model = self.model_wrapped
        model.eval()
        batches = [batch["rows"] for batch in dataloader]
        rows = [row for batch in batches for row in batch]
        # Every pass of a rank that holds a part of each layer is a pass of all of them: they need as many.
        groups = batches if self.is_deepspeed_enabled else cut(rows, self.limit.tokens) if rows else ()
        total = torch.zeros((), dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for group in groups:
                total += self.compute_loss(model, self._packed(group), num_items_in_batch=1)
        sums = torch.stack([total, torch.tensor(float(learned(rows)), dtype=torch.float64, device=total.device)])
        if self.args.world_size > 1:
            sums = self.accelerator.gather(sums[None]).sum(0)
        model.train()
        metrics = {f"{metric_key_prefix}_loss": (sums[0] / sums[1]).item()}
        return EvalLoopOutput(None, None, metrics, num_samples=self.num_examples(dataloader))

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Estimated operations of a micro-batch."""
        tokens = sum(one["input_ids"].numel() for one in inputs["passes"])
        return tokens * self._operations_a_token if tokens else 0

    @property
    def limit(self) -> PassLimit:
        """How many tokens a pass may have, found out when the first step is packed: the model lies in memory then."""
        if self._limit is None:
            self._limit = pass_limit(self.args.device, self._fused, self._longest(), self._max_tokens)
            if self._fused is not None:
                self._fused.checkpoint(self._limit.checkpointing)
        return self._limit

    @functools.cached_property
    def _operations_a_token(self) -> int:
        """Two a weight forward and two backward; the frozen weights' own gradients aren't made."""
        return int(4 * self.model.num_parameters(exclude_embeddings=True))

    def _longest(self) -> int:
        sets = [data for data in (self.train_dataset, self.eval_dataset) if data is not None]
        return max((length for data in sets for length in _lengths(data)), default=0)

    def _packed(self, rows: Sequence[Row]) -> dict[str, Any]:
        device = self.args.device
        apart = device.type == "cuda"
        batch = pack_apart(rows, ROW_MULTIPLE) if apart else pack(rows)
        # A mask of four dimensions is taken as it is: the attention reads segments, and a real one would be (T, T).
        batch["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        return {name: _moved(value, device) for name, value in batch.items()}

    def _draw_seeds(self) -> tuple[int, int]:
        """Seeds of a pass's dropout masks, from the generator whose state checkpoints keep."""
        low, high = torch.randint(2**31 - 1, (2,)).tolist()
        return low, high


def _lengths(data: Any) -> Sequence[int]:
    lengths = getattr(data, "lengths", None)
    return [len(row.input_ids) for row in data] if lengths is None else lengths


def _moved(value: Any, device: torch.device) -> Any:
    if not isinstance(value, Tensor) or device.type == "cpu":
        return value
    return value.pin_memory().to(device, non_blocking=True)
