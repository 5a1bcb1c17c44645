"""Curves of a run as PNG files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_DRAWN = ("loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gib")
_SMOOTHED = {"loss", "grad_norm"}
_WEIGHT = 0.8
"""Share of the value before in a smoothed value."""


def draw(entries: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """One image for each quantity, for instance train_loss.png, from entries with "step" and values by name."""
    directory.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for entry in entries:
        for name in _DRAWN:
            if name in entry:
                curves[name].append((entry["step"], entry[name]))
    for name, points in curves.items():
        title = name if name.startswith("eval_") else f"train_{name}"
        _plot(points, title, directory / f"{title}.png", smooth=name in _SMOOTHED)


def smoothed(values: Sequence[float]) -> list[float]:
    """Running means that weigh older values less and less."""
    means: list[float] = []
    for value in values:
        means.append(value if not means else _WEIGHT * means[-1] + (1 - _WEIGHT) * value)
    return means


def _plot(points: Sequence[tuple[int, float]], title: str, file: Path, *, smooth: bool) -> None:
    steps, values = [step for step, _ in points], [value for _, value in points]
    figure = Figure(figsize=(6, 4), layout="tight")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, values, marker="." if len(steps) < 50 else "", alpha=0.4 if smooth else 1.0)
    if smooth:
        axes.plot(steps, smoothed(values))
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    figure.savefig(file, dpi=100)
