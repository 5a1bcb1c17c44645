"""Where a command writes: progress and remarks to stderr, results to stdout."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from finery_client.local import label
from finery_shared.errors import FineryError

_UNBOUNDED = 10_000


class Screen:
    """Both streams. Colours and moving bars are for terminals; a pipe or a file gets plain lines."""

    def __init__(self, remarks: Console | None = None, results: Console | None = None) -> None:
        self.remarks = remarks or _console(stderr=True)
        self.results = results or _console(stderr=False)

    @property
    def interactive(self) -> bool:
        """Whether someone watches the remarks on a terminal."""
        return self.remarks.is_terminal

    def say(self, text: str) -> None:
        """A remark."""
        self.remarks.print(escape(text), highlight=False, soft_wrap=True)

    def starting(self, service: str) -> None:
        """A remark on a service that is started for this command."""
        self.say(f"Starting the {label(service)} for this command; with `finery up` it would be there.")

    def warn(self, text: str) -> None:
        """A remark that asks for attention."""
        self.remarks.print(f"[yellow]{escape(text)}[/]", highlight=False, soft_wrap=True)

    def heading(self, text: str) -> None:
        """The beginning of a stage."""
        if self.interactive:
            self.remarks.rule(f"[bold]{escape(text)}", align="left")
        else:
            self.say(f"== {text}")

    def error(self, error: FineryError) -> None:
        """What went wrong and what to do, in one line."""
        text = " ".join(error.message.split())
        self.remarks.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def result(self, text: str, end: str = "\n") -> None:
        """A result, as it is."""
        sys.stdout.write(text + end)
        sys.stdout.flush()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of results. On a pipe it has no frame and nothing is cut."""
        table = Table(*columns) if self.results.is_terminal else Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*map(escape, row))
        with self.results.capture() as text:
            self.results.print(table)
        self.result("\n".join(line.rstrip() for line in text.get().splitlines()))

    def figures(self, figures: Mapping[str, float]) -> None:
        """Figures of a job, as remarks."""
        width = max(map(len, figures), default=0)
        for name, value in sorted(figures.items()):
            self.say(f"  {name:<{width}}  {value:.6g}")


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_UNBOUNDED)
