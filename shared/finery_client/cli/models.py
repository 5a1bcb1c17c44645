"""``finery models``."""

from __future__ import annotations

from pathlib import Path

from finery_client.cli.screen import Screen
from finery_shared.home import Home
from finery_shared.models import all_specs, is_complete, store_path
from finery_shared.models.spec import ModelSpec


def run(screen: Screen) -> int:
    """Show the registered models, and what the local store has."""
    store = Home.from_env().models
    registered = all_specs()
    rows = [_row(spec, store) for spec in registered]
    rows += [_unregistered(path) for path in _others(store, {spec.model_type for spec in registered})]
    screen.table(("model_type", "template", "in the store", "Hugging Face", "ModelScope"), rows)
    screen.say(f"The store is {store}. A model that is not there is taken from a hub when it is used.")
    return 0


def _row(spec: ModelSpec, store: Path) -> tuple[str, ...]:
    stored = "yes" if is_complete(store_path(store, spec.model_type)) else ""
    return spec.model_type, spec.template, stored, spec.hf_id or "", spec.ms_id or ""


def _others(store: Path, known: set[str]) -> list[Path]:
    """Directories of the store that no registered name stands for."""
    if not store.is_dir():
        return []
    return sorted(path for path in store.iterdir() if path.name not in known and is_complete(path))


def _unregistered(path: Path) -> tuple[str, ...]:
    return path.name, "", "yes", "", ""
