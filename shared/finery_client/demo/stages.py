"""What the demo did, stage by stage, and the table of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from finery_client.cli.screen import Screen

NOTHING = "–"


@dataclass
class Stage:
    """One stage: how long it took, what it left, what was measured."""

    name: str
    seconds: float = 0.0
    artifact: str = NOTHING
    figures: list[str] = field(default_factory=list)


class Stages:
    """Times the stages and shows them."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._begun = time.monotonic()
        self._stages: list[Stage] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Run a stage; what is done inside is timed."""
        self._screen.heading(name)
        stage = Stage(name)
        self._stages.append(stage)
        begun = time.monotonic()
        try:
            yield stage
        finally:
            stage.seconds = time.monotonic() - begun

    def add(self, stage: Stage) -> None:
        """A stage that was timed elsewhere."""
        self._stages.append(stage)

    def show(self, peak_bytes: int) -> None:
        """The table, with the whole time and the peak memory of all processes."""
        table = Table(title="Finery demo", show_lines=True)
        table.add_column("stage")
        table.add_column("time", justify="right")
        table.add_column("artifact", overflow="fold")
        table.add_column("figures")
        for stage in self._stages:
            figures = "\n".join(stage.figures) or NOTHING
            table.add_row(*map(escape, (stage.name, f"{stage.seconds:.1f} s", stage.artifact, figures)))
        total = time.monotonic() - self._begun
        self._screen.results.print(table)
        self._screen.result(f"total {total:.1f} s, peak memory of all processes {peak_bytes / 2**30:.2f} GiB")


def figure_lines(figures: Mapping[str, float], names: Mapping[str, str]) -> list[str]:
    """The figures that are wanted, each with its label; one that the job did not measure is a dash.

    ``names`` maps a figure's name to its label and format, as ``"loss {:.3f}"``.
    """
    return [
        text.format(figures[name]) if name in figures else text.partition("{")[0] + NOTHING
        for name, text in names.items()
    ]


def shown_path(path: str) -> str:
    """Relative to this directory where that is shorter."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
