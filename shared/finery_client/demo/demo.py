"""The demo itself: one stage after the other."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from openai import OpenAI

from finery.jobs.v1.jobs_pb2 import JobEvent
from finery_client.arguments import DeployArguments, ExportArguments, SftArguments
from finery_client.calls import Calls
from finery_client.cli.deploy import load
from finery_client.cli.job import run_job
from finery_client.cli.screen import Screen
from finery_client.cli.signals import Stopped
from finery_client.connect import Connection
from finery_client.demo import base_model
from finery_client.demo.memory import MemoryMeter
from finery_client.demo.questions import converse, score_identity, show_wrong
from finery_client.demo.stages import Stage, Stages, figure_lines, shown_path
from finery_client.jobs import ExportJobs, TrainingJobs
from finery_client.local import Machine
from finery_client.results import ExportResult, TrainingResult
from finery_client.specs import export_spec, training_spec
from finery_shared.home import Home
from finery_shared.models import get

NAMES = ("小黄", "Xiao Huang")
AUTHORS = ("魔搭", "ModelScope")
DATASETS = ("self-cognition", "general-zh", "general-en")
WANTED = 0.9
"""Share of right names, and of right authors, that the demo asks of the model."""

_KEPT = frozenset({"FINERY_VENVS", "FINERY_MODEL_STORE", "FINERY_HOME", "FINERY_TRAINER_QUESTIONS_ON_CPU"})

_TRAINING = {
    "train_loss": "loss {:.3f}",
    "eval_loss": "eval loss {:.3f}",
    "identity_name": "name {:.0%} of a sample",
    "identity_author": "author {:.0%} of a sample",
    "identity_contrast": "questions about others right {:.0%}",
    "identity_contrast_base": "the same, base model {:.0%}",
    "identity_hijacked": "answered with its own name {:.0%}",
    "retention_perplexity_base": "perplexity on general rows, base {:.2f}",
    "retention_perplexity_tuned": "perplexity on general rows, tuned {:.2f}",
    "retention_text_perplexity_base": "perplexity on other text, base {:.2f}",
    "retention_text_perplexity_tuned": "perplexity on other text, tuned {:.2f}",
}
_MERGE = {
    "merge_divergence": "merge parity: {:.1e} nats a token",
    "merge_max_abs_logit_difference": "largest logit difference {:.2g}",
}
_QUANTIZATION = {
    "perplexity_merged": "perplexity, merged {:.2f}",
    "perplexity_quantized": "perplexity, int4 {:.2f}",
    "perplexity_round_to_nearest": "perplexity, plain rounding {:.2f}",
    "identity_name_rate": "name {:.0%} of a sample",
    "identity_author_rate": "author {:.0%} of a sample",
}


@dataclass(frozen=True)
class Options:
    """What the demo is told."""

    gguf: Path
    output_dir: str = "output"


def run(options: Options, screen: Screen) -> int:
    """Run all stages; 1 if the model does not know its name or author often enough. Raises FineryError."""
    real = Machine(Home.from_env(), Path.cwd(), os.environ)
    with scratch_home(screen) as state:
        with (
            Connection(isolated(real, state), lambda service: screen.say(f"  {service}")) as services,
            MemoryMeter(services.pids) as memory,
        ):
            stages = Stages(screen)
            right = _run_stages(options, real, services, stages, screen)
        stages.show(memory.peak_bytes)
    if not right:
        screen.warn(f"The model knows its name or author on fewer than {WANTED:.0%} of the questions.")
    return 0 if right else 1


@contextlib.contextmanager
def scratch_home(screen: Screen) -> Iterator[Path]:
    """A directory for one run, removed at its end; if anything fails, kept and named, since it has the logs."""
    state = Path(tempfile.mkdtemp(prefix="finery-demo-"))
    try:
        yield state
    except (KeyboardInterrupt, Stopped):
        shutil.rmtree(state, ignore_errors=True)
        raise
    except BaseException:
        screen.say(f"The services' logs are kept in {state}.")
        raise
    shutil.rmtree(state)


def isolated(real: Machine, state: Path) -> Machine:
    """A machine whose services share nothing with the user's own but the model store."""
    env: dict[str, str] = {k: v for k, v in real.env.items() if not k.startswith("FINERY_") or k in _KEPT}
    env["FINERY_HOME"] = str(state)
    env["FINERY_MODEL_STORE"] = str(real.home.models)
    for service in ("TRAINER", "QUANTIZER", "INFERENCE"):
        env[f"FINERY_{service}_ALLOWED_ROOTS"] = str(real.home.models)
    return Machine(Home(state), real.cwd, env)


def _run_stages(options: Options, real: Machine, services: Connection, stages: Stages, screen: Screen) -> bool:
    with stages.stage("base model") as stage:
        path, imported = base_model.ensure(real, options.gguf, screen)
        stage.artifact = shown_path(str(path))
        stage.figures = ["imported" if imported else "was there already"]
    with stages.stage("start the services"):
        services.start_all()
    checkpoint = _tune(options, services, stages, screen)
    quantized = _export(checkpoint, services, stages, screen)
    base_url = _deploy(quantized, services, stages, screen)
    with OpenAI(api_key="EMPTY", base_url=base_url, max_retries=0) as client:
        return _question(client, stages, screen)


def _tune(options: Options, services: Connection, stages: Stages, screen: Screen) -> str:
    arguments = SftArguments(
        model_type=base_model.MODEL_TYPE,
        dataset=DATASETS,
        model_name=NAMES,
        model_author=AUTHORS,
        lora_target_modules=("ALL",),
        output_dir=options.output_dir,
    )
    with stages.stage("fine-tune") as stage, Calls(endpoint := services.endpoint("trainer")) as calls:
        job = run_job(TrainingJobs(calls), training_spec(arguments, services.here), endpoint, screen)
        result = TrainingResult.of(job)
        stage.artifact = shown_path(result.best_model_checkpoint)
        stage.figures = figure_lines(result.figures, _TRAINING)
    screen.result(f"best_model_checkpoint: {result.best_model_checkpoint}")
    return result.best_model_checkpoint


def _export(checkpoint: str, services: Connection, stages: Stages, screen: Screen) -> str:
    """One job, as in the guide; its two steps are told apart by when the merged model's figures come."""
    arguments = ExportArguments(ckpt_dir=checkpoint, merge_lora=True, quant_bits=4, quant_method="awq")
    screen.heading("merge, quantize to int4")
    begun = time.monotonic()
    merged_at: list[float] = []

    def note_merge(event: JobEvent) -> None:
        if event.HasField("metrics") and event.metrics.phase == "merge":
            merged_at.append(time.monotonic())

    with Calls(endpoint := services.endpoint("quantizer")) as calls:
        job = run_job(ExportJobs(calls), export_spec(arguments, services.here), endpoint, screen, note_merge)
    result = ExportResult.of(job)
    ended = time.monotonic()
    middle = merged_at[0] if merged_at else ended
    figures = result.figures
    stages.add(Stage("merge", middle - begun, shown_path(result.merged), figure_lines(figures, _MERGE)))
    quantized = Stage("quantize to int4", ended - middle, shown_path(result.quantized))
    quantized.figures = figure_lines(figures, _QUANTIZATION)
    stages.add(quantized)
    return result.quantized


def _deploy(quantized: str, services: Connection, stages: Stages, screen: Screen) -> str:
    arguments = DeployArguments(ckpt_dir=quantized, max_model_len=2048, port=0)
    with stages.stage("deploy") as stage:
        serving = load(arguments, services, screen)
        stage.artifact = serving.base_url
        stage.figures = [f"model {serving.model_id}"]
    return serving.base_url


def _question(client: OpenAI, stages: Stages, screen: Screen) -> bool:
    with stages.stage("ask"):
        converse(client, screen)
    with stages.stage("score the identity") as stage:
        result = score_identity(client, NAMES, AUTHORS, get(base_model.MODEL_TYPE).identity, screen)
        show_wrong(result, screen)
        stage.figures = [
            f"name {result.name_rate:.0%} of {result.name_asked}",
            f"author {result.author_rate:.0%} of {result.author_asked}",
            f"the same in later turns {result.later.name_rate:.0%}, {result.later.author_rate:.0%}",
            f"questions about others right {result.contrast_rate:.0%} of {result.contrast_asked}",
            f"of them answered with its own name {result.hijacked}",
            f"old identity leaked in {result.leaked} of {result.own_asked}",
        ]
    return result.name_rate >= WANTED and result.author_rate >= WANTED
