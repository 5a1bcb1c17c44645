"""How argument types that tyro does not have are read from a command line."""

from __future__ import annotations

from typing import Annotated, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

T = TypeVar("T")

_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def read_switch(words: list[str]) -> bool:
    """True for a bare flag; else what its one word says. Raises ValueError."""
    word = words[0].lower() if len(words) == 1 else ""
    if not words or word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(f"expected true or false, not {' '.join(words)!r}")


_SWITCH: PrimitiveConstructorSpec[bool] = PrimitiveConstructorSpec(
    nargs="*",
    metavar="[true|false]",
    instance_from_str=read_switch,
    is_instance=lambda value: isinstance(value, bool),
    str_from_instance=lambda value: [str(value).lower()],
)

Switch = Annotated[bool, _SWITCH]
"""A flag that is given bare, or with true or false."""

Maybe = Annotated[T | None, tyro.conf.arg(help_behavior_hint="")]
"""A value whose default is the service's or the model's own; its help says which."""

Words = Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint="")]
"""Any number of words."""

Text = Annotated[str, tyro.conf.arg(help_behavior_hint="")]
"""Text that may be left out."""
