"""The files of a run: nothing twice after a crash, curves drawn, events readable by TensorBoard."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from finery_trainer.recipes.curves import smoothed
from finery_trainer.recipes.pace import Pace
from finery_trainer.recipes.watching import RunFiles
from tests.unit.trainer.runs import RecordingContext, run
from tests.unit.trainer.test_resume import GIVEN, Crash, CrashingContext


def scalars(directory: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(directory / "runs"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def lines(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "logging.jsonl").read_text().splitlines()]


def test_a_run_that_went_on_has_written_every_step_once(tmp_path: Path) -> None:
    context = RecordingContext()
    files = RunFiles(tmp_path / "run")
    with pytest.raises(Crash):
        run(tmp_path / "out", CrashingContext(8), files=files, **GIVEN)
    with (tmp_path / "run" / "logging.jsonl").open("a") as torn:
        torn.write('{"step": 8, "lo')
    files = RunFiles(tmp_path / "run")
    run(tmp_path / "out", context, files=files, **GIVEN)
    files.end({"global_step": 12})
    written = lines(tmp_path / "run")
    assert [line["step"] for line in written if line.get("phase") == "train"] == list(range(1, 13))
    assert [line["step"] for line in written if line.get("phase") == "eval"] == [3, 6, 9, 12]
    assert written[-1] == {"global_step": 12}
    assert {"loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gib", "epoch"} <= written[0].keys()
    losses = scalars(tmp_path / "run", "train/loss")
    assert [step for step, _ in losses] == list(range(1, 13))
    assert [loss for _, loss in losses[6:]] == pytest.approx(context.losses())
    assert [step for step, _ in scalars(tmp_path / "run", "eval/loss")] == [3, 6, 9, 12]
    drawn = {path.name for path in (tmp_path / "run" / "images").iterdir()}
    assert {"train_loss.png", "eval_loss.png", "train_learning_rate.png", "train_tokens_per_second.png"} <= drawn
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "run" / "images").iterdir())


def test_the_pace_leaves_evaluations_out() -> None:
    now, tokens = [0.0], [0]
    pace = Pace(lambda: tokens[0], lambda: now[0])
    for _ in range(3):
        pace.step_begins()
        now[0] += 2.0
        tokens[0] += 500
        pace.step_ends()
        now[0] += 100.0
    figures = pace.figures()
    assert figures["tokens_per_second"] == 250
    assert 0.05 < figures["memory_gib"] < 1000
    assert "tokens_per_second" not in pace.figures()


def test_older_values_weigh_less_and_less() -> None:
    assert smoothed([1.0, 0.0, 0.0]) == pytest.approx([1.0, 0.8, 0.64])
