"""The model registry: one table of families, and look-ups by model type or hub id."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from finery_shared.errors import FineryError, Reason
from finery_shared.models.families import qwen1half, smollm2
from finery_shared.models.spec import ModelSpec

FAMILIES: tuple[tuple[ModelSpec, ...], ...] = (smollm2.SPECS, qwen1half.SPECS)


def all_specs() -> tuple[ModelSpec, ...]:
    """Every registered model, family by family, small to large."""
    return tuple(spec for family in FAMILIES for spec in family)


def find(name: str) -> ModelSpec | None:
    """The model of that type, or of that Hugging Face or ModelScope id; case and ``_``/``-`` make no difference."""
    wanted = _canonical(name)
    return next((spec for spec in all_specs() if wanted in map(_canonical, _names(spec))), None)


def get(name: str) -> ModelSpec:
    """As `find`; raises MODEL_NOT_FOUND with near matches when there is none."""
    spec = find(name)
    if spec is None:
        raise not_found(name)
    return spec


def not_found(name: str) -> FineryError:
    """The error for a model name that is neither registered nor a directory."""
    near = near_matches(name, (spec.model_type for spec in all_specs()))
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return FineryError(
        Reason.MODEL_NOT_FOUND,
        f"There is no model type {name!r}.{hint} `finery models` lists those that are known; "
        "--model_id_or_path DIR takes any Hugging Face chat model of a known architecture.",
        model=name,
    )


def near_matches(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that look like ``name``, the nearest first."""
    by_key = {_canonical(key): key for key in known}
    return [by_key[key] for key in get_close_matches(_canonical(name), by_key, n=3, cutoff=0.6)]


def _names(spec: ModelSpec) -> tuple[str, ...]:
    return tuple(name for name in (spec.model_type, spec.hf_id, spec.ms_id) if name)


def _canonical(name: str) -> str:
    return name.strip().lower().replace("_", "-")
