from typing import Any

import pytest

from finery_shared.errors import FineryError, Reason
from finery_shared.models import ModelShape, group_size_for

CONFIG: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(
    ("hidden", "intermediate", "heads", "expected"),
    [(4096, 11008, 32, 128), (896, 4864, 14, 128), (576, 1536, 9, 64), (960, 2560, 15, 64), (96, 256, 3, 32)],
)
def test_group_size_is_the_largest_that_divides_all(hidden: int, intermediate: int, heads: int, expected: int) -> None:
    config = CONFIG | {"hidden_size": hidden, "intermediate_size": intermediate, "num_attention_heads": heads}
    assert group_size_for(config) == expected


def test_the_attention_output_counts_too() -> None:
    """Heads may be wider than hidden / heads: 6 heads of 48 give an input of 288, which only 32 divides."""
    assert group_size_for(CONFIG | {"hidden_size": 256, "num_attention_heads": 6, "head_dim": 48}) == 32


def test_no_group_size_fits() -> None:
    with pytest.raises(FineryError, match="can't be quantized with AWQ") as caught:
        group_size_for(CONFIG | {"hidden_size": 100, "num_attention_heads": 4})
    assert caught.value.reason is Reason.UNSUPPORTED


def test_missing_sizes_are_named() -> None:
    config = {key: value for key, value in CONFIG.items() if key not in ("vocab_size", "hidden_size")}
    with pytest.raises(FineryError, match="hidden_size, vocab_size") as caught:
        ModelShape.from_config(config)
    assert caught.value.reason is Reason.MODEL_INVALID


def test_key_value_heads_default_to_heads() -> None:
    assert ModelShape.from_config(CONFIG).kv_heads == 32
    assert ModelShape.from_config(CONFIG | {"num_key_value_heads": 8}).kv_heads == 8
