"""Calibration rows: drawn by the data set grammar, rendered as in training, cut into blocks of one length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finery_quantizer.request import DEFAULT_DATASETS, ExportRequest, TrainingRecipe
from finery_shared.datasets import Conversation, load
from finery_shared.errors import FineryError, Reason, invalid
from finery_shared.templates.rows import render_row
from finery_shared.templates.tokenizer import ChatTokenizer

_ENOUGH_CONTEXT = 512


def choose_datasets(request: ExportRequest, recipe: TrainingRecipe) -> tuple[str, ...]:
    """The data sets to calibrate with: those asked for, else those of the training if they load, else general ones.

    Raises what `load` raises for data sets that were asked for.
    """
    if request.datasets:
        calibration_rows(request.datasets, request, recipe)
        return request.datasets
    if recipe.datasets:
        try:
            calibration_rows(recipe.datasets, request, recipe)
        except FineryError:
            return DEFAULT_DATASETS  # what was trained on has moved; these always come with Finery
        return recipe.datasets
    return DEFAULT_DATASETS


def calibration_rows(
    datasets: Sequence[str], request: ExportRequest, recipe: TrainingRecipe
) -> tuple[Conversation, ...]:
    """At most `quant_n_samples` distinct rows, in an order that the seed decides."""
    loaded = load(
        datasets,
        seed=request.dataset_seed,
        test_ratio=0.0,
        names=recipe.model_names,
        authors=recipe.model_authors,
        system=recipe.system or "",
    )
    distinct = {repr((row.messages, row.tools, row.text)): row for row in reversed(loaded.train)}
    return tuple(reversed(distinct.values()))[: request.quant_n_samples]


@dataclass(frozen=True)
class Blocks:
    """Calibration tokens as blocks of one length; `available` counts the tokens that the rows had."""

    ids: tuple[tuple[int, ...], ...]
    rows: int
    available: int

    @property
    def used(self) -> int:
        """Tokens in all blocks."""
        return sum(map(len, self.ids))


def cut_blocks(
    tokenizer: ChatTokenizer, rows: Sequence[Conversation], seqlen: int, *, at_least: int, at_most: int | None
) -> Blocks:
    """Render `rows`, join them, and cut the stream into equal blocks of at most `seqlen` tokens.

    Blocks are no longer than the longest row (but for blocks of 512): attention to other rows costs time and tells
    nothing. A long row goes on in the next block; all that is dropped is a remainder of fewer tokens than there are
    blocks. Raises INVALID_ARGUMENT when there are fewer tokens than `at_least`.
    """
    rendered = [render_row(tokenizer, row).token_ids for row in rows]
    stream = [token for ids in rendered for token in ids]
    if not stream:
        raise FineryError(Reason.DATASET_EMPTY, "The calibration data have no rows: name others with --dataset.")
    if len(stream) < at_least:
        raise invalid(
            "quant_n_samples",
            f"{len(rows)} calibration rows have {len(stream)} tokens, fewer than the {at_least} that a useful "
            "calibration takes: raise --quant_n_samples, or name more --dataset.",
        )
    used = stream if at_most is None else stream[:at_most]
    longest = min(seqlen, max(_ENOUGH_CONTEXT, *map(len, rendered)))
    count = math.ceil(len(used) / longest)
    length = len(used) // count
    blocks = tuple(tuple(used[start * length : (start + 1) * length]) for start in range(count))
    return Blocks(blocks, len(rows), len(stream))
