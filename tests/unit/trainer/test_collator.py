"""A packed batch gives the loss and the gradients of its rows by themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from finery_trainer.recipes.attention import register, visible
from finery_trainer.recipes.collator import IGNORED, alike, learned, pack, shared_prefix
from finery_trainer.recipes.rows import Row

SYSTEM = (1, 7, 7, 9)


def row(user: Sequence[int], answer: Sequence[int], start: Sequence[int] = SYSTEM) -> Row:
    prompt = (*start, *user, 2)
    return Row((*prompt, *answer), (*(IGNORED for _ in prompt), *answer))


ROWS = [row([11, 12], [21, 22, 3]), row([13], [23, 3]), row([11, 12, 14, 15], [24, 25, 26, 27, 3])]


OTHER = (1, *range(40, 55))
LONG = (1, *range(20, 38))
MIXED = [
    row([11], [21, 3], start=LONG),
    row([12, 14], [22, 3], start=OTHER),
    row([13], [24, 25, 3], start=LONG),
    row([15], [26, 3], start=SYSTEM),
    row([16, 17], [27, 3], start=OTHER),
    row([18], [28, 3], start=(1, 8, 9)),
]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=register(),
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def loss_and_gradient(model: LlamaForCausalLM, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def separately(model: LlamaForCausalLM, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Mean over all learned tokens, each row in a forward pass of its own."""
    model.zero_grad()
    counts = [sum(label != IGNORED for label in row.labels) for row in rows]
    total = sum(
        model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels]), use_cache=False).loss * count
        for row, count in zip(rows, counts, strict=True)
    ) / sum(counts)
    assert isinstance(total, Tensor)
    total.backward()
    return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        ROWS[:1],
        [row([11], [21, 3]), row([11], [22, 3])],  # the same prompt twice: everything up to the answers is shared
        [row([11], [21, 3]), row([12], [22, 3], start=(5, 6))],  # nothing is shared
        MIXED,
    ],
    ids=["shared", "single", "same prompt", "nothing shared", "two beginnings"],
)
def test_packing_changes_neither_loss_nor_gradient(model: LlamaForCausalLM, rows: list[Row]) -> None:
    batch = pack(rows)
    assert batch["input_ids"].shape[0] == 1
    loss, gradient = loss_and_gradient(model, batch)
    expected_loss, expected_gradient = separately(model, rows)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [ROWS, MIXED], ids=["one beginning", "several"])
def test_every_row_has_the_loss_that_it_has_by_itself(model: LlamaForCausalLM, rows: list[Row]) -> None:
    batch = pack(rows)
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits[0]
        expected = [
            model(input_ids=torch.tensor([one.input_ids]), labels=torch.tensor([one.labels]), use_cache=False).loss
            for one in rows
        ]
    laid_out = [one for group in alike(rows) for one in group]
    each = cross_entropy(logits, batch["shift_labels"][0], reduction="none").split([learned([one]) for one in laid_out])
    found = [each[laid_out.index(one)].mean() for one in rows]
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_the_shared_beginning_is_computed_once() -> None:
    batch = pack(ROWS)
    lengths = [len(row.input_ids) for row in ROWS]
    assert shared_prefix(ROWS) == len(SYSTEM)
    assert batch["input_ids"].shape == (1, sum(lengths) - 2 * len(SYSTEM))
    assert batch["logits_to_keep"].numel() == 3 + 2 + 5


def test_rows_that_begin_alike_share_their_beginning_whatever_the_others_do() -> None:
    batch = pack(MIXED)
    groups = batch["segments"]
    assert sorted(group[0] for group in groups) == [1, len(OTHER), len(LONG)]
    assert sum(map(sum, groups)) == batch["input_ids"].shape[1]
    whole = sum(len(one.input_ids) for one in MIXED)
    assert batch["input_ids"].shape[1] == whole - len(OTHER) - len(LONG) - 1


def test_what_is_learned_is_never_shared() -> None:
    same = row([11], [21, 3])
    assert shared_prefix([same, same]) == len(SYSTEM) + 2


def test_a_window_hides_what_is_far_behind() -> None:
    mask = visible(2, 3, 2, torch.device("cpu"))
    assert mask.int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]]


def test_what_is_not_packed_is_read_as_ever(model: LlamaForCausalLM) -> None:
    ids = torch.tensor([ROWS[0].input_ids, ROWS[0].input_ids])
    padded = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    model.set_attn_implementation("sdpa")
    expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    model.set_attn_implementation(register())
    torch.testing.assert_close(padded, expected)
