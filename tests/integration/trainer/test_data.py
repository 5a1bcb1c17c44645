"""What a job says and counts of its data: every kind of file, a validation set of its own, rows cut and left out."""

import json
from pathlib import Path

from finery.artifacts.v1.artifacts_pb2 import ModelSource
from finery.jobs.v1.jobs_pb2 import JobState
from finery.trainer.v1 import trainer_pb2 as pb
from tests.integration.trainer.harness import Trainer

LONG = " ".join(f"word{number}" for number in range(100))


async def test_a_job_over_files_of_every_kind(trainer: Trainer, tiny_qwen: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    pair = {"query": "Who?", "response": "Me."}
    (tmp_path / "a.csv").write_text("instruction,input,output\nWho?,,Me.\nWho?," + LONG + ",You.\n")
    (tmp_path / "b.txt").write_text("Once upon a time.\n\nThe end.\n")
    (tmp_path / "c.json").write_text(json.dumps({"data": [{"conversation": [{"human": "Hi", "assistant": "Yes"}]}]}))
    parquet.write_table(pyarrow.Table.from_pylist([pair] * 3), tmp_path / "d.parquet")
    (tmp_path / "e.jsonl").write_text((json.dumps(pair) + "\n") * 3 + json.dumps({**pair, "query": LONG * 9}) + "\n")
    names = ("a.csv", "b.txt", "c.json#5", "d.parquet")
    spec = pb.TrainingSpec(
        model=ModelSource(model_type="qwen1half-7b-chat", model_id_or_path=str(tiny_qwen)),
        datasets=[str(tmp_path / name) for name in names],
        val_datasets=[str(tmp_path / "e.jsonl")],
        max_length=64,
        truncation_strategy="truncation_left",
        output_dir=str(tmp_path / "out"),
        optimization=pb.OptimizationSpec(max_steps=2, batch_size=2, gradient_accumulation_steps=1),
    )
    name = await trainer.create(spec)
    events = [event async for event in trainer.events(name)]
    job = await trainer.finished(name)
    assert job.status.state == JobState.JOB_STATE_SUCCEEDED, job.status.error
    lines = [event.log.text for event in events if event.HasField("log")]
    assert f"{tmp_path}/c.json#5: 1 rows, 5 to train on, 0 to evaluate on; " in "\n".join(lines)
    total = next(line for line in lines if " rows to train on " in line)
    assert total.startswith("12 rows to train on (")
    assert "4 to evaluate on, 0 left out, 2 cut to --max_length" in total
    figures = job.output.figures
    assert (figures["rows_train"], figures["rows_val"], figures["rows_cut"]) == (12, 4, 2)
    (counted,) = [metric for metric in await trainer.metrics(name) if metric.phase == "data"]
    assert counted.values["tokens_train"] == figures["tokens_train"] > 100
    assert job.output.best_metric > 0
    assert len(list((tmp_path / "home" / "trainer" / "cache").glob("*.arrow"))) == 1
