"""The files by which a run is watched: logging.jsonl, TensorBoard events, and curves as images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

LOG, EVENTS, IMAGES = "logging.jsonl", "runs", "images"


class RunFiles:
    """Writes the files of a run below ``directory``, which outlives attempts: what is logged again is there once."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writer: SummaryWriter | None = None

    def begin(self, step: int) -> None:
        """Go on after a step; what an earlier attempt logged beyond it will be logged again."""
        self.directory.mkdir(parents=True, exist_ok=True)
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        temporary = self.directory / f"{LOG}.tmp"
        temporary.write_text("".join(map(_line, kept)), encoding="utf-8")
        temporary.replace(self.directory / LOG)
        purged = {"purge_step": step + 1} if step else {}
        self._writer = SummaryWriter(str(self.directory / EVENTS), flush_secs=10, **purged)

    def record(self, step: int, phase: str, values: Mapping[str, float], **more: Any) -> None:
        """Add what was measured at a step; ``more`` goes to logging.jsonl alone."""
        with (self.directory / LOG).open("a", encoding="utf-8") as file:
            file.write(_line({"step": step, "phase": phase, **values, **more}))
        assert self._writer is not None
        for name, value in values.items():
            self._writer.add_scalar(f"{phase}/{name.removeprefix('eval_')}", value, step)

    def end(self, summary: Mapping[str, Any]) -> None:
        """Close the files, with a summary as the last line, and draw every curve."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        from finery_trainer.recipes.curves import draw  # matplotlib takes a second to import, for the end alone

        self.directory.mkdir(parents=True, exist_ok=True)
        draw(self.entries(), self.directory / IMAGES)
        with (self.directory / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(summary, ensure_ascii=False) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """What was recorded; a line that a crash cut off is left out, and so is the summary."""
        try:
            lines = (self.directory / LOG).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [entry for entry in map(_parse, lines) if "step" in entry]


def _line(entry: Mapping[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _parse(line: str) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return entry
