"""Between the contract's messages and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from finery.artifacts.v1.artifacts_pb2 import Devices, ModelSource
from finery.trainer.v1 import trainer_pb2 as pb
from finery_shared.jobs.publication import Published
from finery_shared.jobs.rows import JobRecord
from finery_trainer.spec import TrainingSpec

BEST, LAST, OTHER = "best_checkpoint", "last_checkpoint", "other_checkpoint"
"""Roles of a job's artifacts."""

_SPEC = (
    "dataset_test_ratio",
    "dataset_seed",
    "system",
    "max_length",
    "seed",
    "dtype",
    "truncation_strategy",
    "sft_type",
    "base_precision",
)
_PLAIN = ("output_dir", "resume_from_checkpoint", "deepspeed")
_LISTS = ("datasets", "val_datasets", "model_names", "model_authors")
_LORA = {
    "rank": "lora_rank",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
_OPTIMIZATION = (
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation_steps",
    "weight_decay",
    "warmup_ratio",
    "max_grad_norm",
    "lr_scheduler_type",
    "adam_beta1",
    "adam_beta2",
    "neftune_noise_alpha",
)
_SCHEDULE = ("eval_steps", "save_steps", "save_total_limit", "logging_steps", "early_stopping_patience")


def given(spec: pb.TrainingSpec) -> dict[str, Any]:
    """What a spec sets, by the names of `TrainingSpec`."""
    values: dict[str, Any] = {
        "model_type": spec.model.model_type,
        "model_id_or_path": spec.model.model_id_or_path,
        **{name: getattr(spec, name) for name in _PLAIN},
        **{name: tuple(getattr(spec, name)) for name in _LISTS},
    }
    if spec.lora.target_modules:
        values["lora_target_modules"] = tuple(spec.lora.target_modules)
    if spec.devices.HasField("cuda_visible_devices"):
        values["cuda_visible_devices"] = spec.devices.cuda_visible_devices
    if spec.devices.nproc_per_node:
        values["nproc_per_node"] = spec.devices.nproc_per_node
    values |= _set_fields(spec, {name: name for name in _SPEC})
    values |= _set_fields(spec.lora, _LORA)
    values |= _set_fields(spec.optimization, {name: name for name in _OPTIMIZATION})
    values |= _set_fields(spec.schedule, {name: name for name in _SCHEDULE})
    return values


def to_spec(spec: TrainingSpec) -> pb.TrainingSpec:
    """The message with every default filled in."""
    values = spec.model_dump()
    return pb.TrainingSpec(
        model=ModelSource(model_type=spec.model_type, model_id_or_path=spec.model_id_or_path),
        lora=pb.LoraSpec(
            target_modules=spec.lora_target_modules, **{field: values[name] for field, name in _LORA.items()}
        ),
        optimization=pb.OptimizationSpec(**{name: values[name] for name in _OPTIMIZATION}),
        schedule=pb.ScheduleSpec(**{name: values[name] for name in _SCHEDULE}),
        devices=Devices(cuda_visible_devices=spec.cuda_visible_devices, nproc_per_node=spec.nproc_per_node),
        **{name: values[name] for name in (*_SPEC, *_PLAIN, *_LISTS)},
    )


def to_job(record: JobRecord) -> pb.TrainingJob:
    """The resource that a row of the job database stands for."""
    job = pb.TrainingJob(name=record.name, spec=pb.TrainingSpec.FromString(record.spec), status=record.status)
    if record.output is not None:
        job.output.MergeFromString(record.output)
    return job


def to_output(published: list[Published], figures: Mapping[str, float]) -> pb.TrainingOutput:
    """The output message: the published checkpoints by their roles; a single checkpoint is both."""
    by_role = {item.role: item.artifact for item in published}
    last = by_role.get(LAST) or by_role.get(BEST)
    best = by_role.get(BEST) or last
    output = pb.TrainingOutput(best_checkpoint=best, last_checkpoint=last, figures=figures)
    if best is not None and "eval_loss" in best.metrics:
        output.best_metric = best.metrics["eval_loss"]
    return output


def _set_fields(message: Message, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: getattr(message, field) for field, name in names.items() if message.HasField(field)}
