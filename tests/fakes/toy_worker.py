"""A worker whose spec is a small JSON plan: count to N, then write an artifact, or misbehave as told."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from finery_shared.artifacts import Kind, Manifest, hash_files, write_manifest
from finery_shared.errors import FineryError, Reason
from finery_shared.jobs.executor import TASK_ENV, Task
from finery_shared.jobs.worker import OUTCOME_FILE, Outcome, StagedArtifact, WorkerContext, run_worker


def work(ctx: WorkerContext) -> Outcome:
    plan = json.loads(ctx.spec)
    done = ctx.state / "done"
    first = int(done.read_text()) if plan.get("resume") and done.is_file() else 0
    for step in range(first + 1, plan["steps"] + 1):
        ctx.raise_if_cancelled()
        ctx.progress(step, plan["steps"], "counting")
        ctx.metrics(step, {"value": step / 2, "attempt": float(ctx.attempt)})
        time.sleep(plan.get("pause", 0.0))
        if plan.get("resume"):
            ctx.state.mkdir(exist_ok=True)
            partial = done.with_suffix(".tmp")
            partial.write_text(str(step))
            partial.replace(done)
        if plan.get("flush"):
            ctx.flush()
        if plan.get("die_every") and step % plan["die_every"] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if plan.get("die_at") == step and ctx.attempt <= plan.get("die_attempts", 99):
            if "leave" in plan:
                (ctx.staging / OUTCOME_FILE).write_bytes(bytes.fromhex(plan["leave"]))
            os.kill(os.getpid(), signal.SIGKILL)
    if plan.get("fail"):
        raise FineryError(Reason.GATE_FAILED, plan["fail"], gate="toy")
    ctx.log("counted")
    return Outcome([stage(ctx, plan, plan["steps"])], {"steps": float(plan["steps"])})


def stage(ctx: WorkerContext, plan: dict[str, Any], steps: int) -> StagedArtifact:
    staged = ctx.staging / "result"
    staged.mkdir()
    (staged / "data.txt").write_text("x" * steps)
    manifest = Manifest(
        kind=Kind.MODEL,
        model_type="toy",
        base_model="none",
        template="none",
        job=ctx.job,
        recipe=plan,
        metrics={"steps": steps},
        files=hash_files(staged),
    )
    write_manifest(staged, manifest)
    if plan.get("corrupt"):
        (staged / "data.txt").write_text("y" * plan["steps"])
    return StagedArtifact(staged, Path(plan["destination"]), "result")


def hand_in(ctx: WorkerContext) -> None:
    """What was counted so far, or as the plan says."""
    plan = json.loads(ctx.spec)
    match plan.get("hand_in"):
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "fail":
            raise FineryError(Reason.GATE_FAILED, "the toy gate refused", gate="toy")
        case "count":
            ctx.kept.append(stage(ctx, plan, int((ctx.state / "done").read_text())))


def linger() -> None:
    """Live on after the outcome was handed in, as a process with much to free does."""
    time.sleep(json.loads(Task.read(Path(os.environ[TASK_ENV])).spec_bytes).get("linger", 0.0))


if __name__ == "__main__":
    status = run_worker(work, hand_in)
    linger()
    sys.exit(status)
