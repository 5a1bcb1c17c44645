"""Folds found scales into a layer: linears times s, what feeds them divided by s. The layer computes the same."""

import warnings

import torch
from torch import Tensor, nn

from finery_shared.errors import FineryError, Reason


def fold(producer: nn.Module, linears: list[nn.Linear], scale: Tensor) -> None:
    """Changes the weights of `producer` and `linears` in place by AutoAWQ's own rules for norms and linears."""
    with warnings.catch_warnings(record=True):  # AutoAWQ announces its retirement on every import, past any filter
        from awq.quantize.scale import scale_fc_fcs, scale_ln_fcs
    with torch.no_grad():
        if isinstance(producer, nn.Linear):
            scale_fc_fcs(producer, linears, scale)
        elif "norm" in type(producer).__name__.lower():
            scale_ln_fcs(producer, linears, scale)
        else:
            raise FineryError(
                Reason.UNSUPPORTED,
                f"AWQ scales cannot be folded into a {type(producer).__name__}: only into norms and linear layers.",
            )
