"""From arguments to the specs that services take. What the user left out stays unset: the service knows better."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finery.artifacts.v1.artifacts_pb2 import Devices, ModelSource
from finery.inference.v1.deployments_pb2 import AdapterSpec, DeploymentSpec
from finery.quantizer.v1.quantizer_pb2 import ExportSpec
from finery.trainer.v1.trainer_pb2 import LoraSpec, OptimizationSpec, ScheduleSpec, TrainingSpec
from finery_client.arguments import ExportArguments, SftArguments
from finery_client.arguments.deploy import ServingArguments
from finery_client.paths import absolute, absolute_dataset, absolute_model
from finery_shared.errors import invalid


@dataclass(frozen=True)
class Surroundings:
    """Where a command was given: its directory and its environment variables."""

    cwd: Path
    env: Mapping[str, str]

    def devices(self) -> Devices:
        """CUDA_VISIBLE_DEVICES and NPROC_PER_NODE as a job's devices. Raises INVALID_ARGUMENT."""
        ranks = self.env.get("NPROC_PER_NODE", "").strip()
        if ranks and not (ranks.isascii() and ranks.isdigit() and int(ranks) > 0):
            raise invalid("NPROC_PER_NODE", f"{ranks!r} is not a number of processes; write 1 or more, or unset it.")
        return Devices(
            cuda_visible_devices=self.env.get("CUDA_VISIBLE_DEVICES"),
            nproc_per_node=int(ranks) if ranks else 0,
        )

    def model(self, model_type: str, model_id_or_path: str) -> ModelSource:
        """The model that was named."""
        return ModelSource(model_type=model_type, model_id_or_path=absolute_model(model_id_or_path, self.cwd))

    def datasets(self, texts: tuple[str, ...]) -> list[str]:
        """The data sets that were named."""
        return [absolute_dataset(text, self.cwd) for text in texts]


def training_spec(arguments: SftArguments, here: Surroundings) -> TrainingSpec:
    """What `finery sft` asks the trainer for. Raises INVALID_ARGUMENT."""
    _need_model(arguments.model_type, arguments.model_id_or_path)
    if not arguments.dataset:
        raise invalid("dataset", "say what to train on: --dataset self-cognition#500 alpaca-zh#500, or a file.")
    _at_most_two("model_name", arguments.model_name)
    _at_most_two("model_author", arguments.model_author)
    return TrainingSpec(
        model=here.model(arguments.model_type, arguments.model_id_or_path),
        datasets=here.datasets(arguments.dataset),
        dataset_test_ratio=arguments.dataset_test_ratio,
        dataset_seed=_natural("dataset_seed", arguments.dataset_seed),
        model_names=arguments.model_name,
        model_authors=arguments.model_author,
        system=arguments.system,
        max_length=_natural("max_length", arguments.max_length),
        output_dir=absolute(arguments.output_dir, here.cwd),
        lora=LoraSpec(
            rank=_natural("lora_rank", arguments.lora_rank),
            alpha=arguments.lora_alpha,
            dropout=arguments.lora_dropout,
            target_modules=arguments.lora_target_modules,
            use_rslora=arguments.use_rslora,
            use_dora=arguments.use_dora,
        ),
        optimization=_optimization(arguments),
        schedule=ScheduleSpec(
            eval_steps=_natural("eval_steps", arguments.eval_steps),
            save_steps=_natural("save_steps", arguments.save_steps),
            save_total_limit=_natural("save_total_limit", arguments.save_total_limit),
            logging_steps=_natural("logging_steps", arguments.logging_steps),
            early_stopping_patience=_natural("early_stopping_patience", arguments.early_stopping_patience),
        ),
        seed=_natural("seed", arguments.seed),
        dtype=arguments.dtype,
        devices=here.devices(),
        val_datasets=here.datasets(arguments.val_dataset),
        truncation_strategy=arguments.truncation_strategy,
        sft_type=arguments.sft_type,
        resume_from_checkpoint=absolute(arguments.resume_from_checkpoint, here.cwd),
        base_precision=arguments.base_precision,
        deepspeed=_deepspeed(arguments.deepspeed, here.cwd),
    )


def _optimization(arguments: SftArguments) -> OptimizationSpec:
    accumulation = arguments.gradient_accumulation_steps
    return OptimizationSpec(
        learning_rate=arguments.learning_rate,
        num_train_epochs=arguments.num_train_epochs,
        max_steps=_natural("max_steps", arguments.max_steps),
        batch_size=_natural("batch_size", arguments.batch_size),
        gradient_accumulation_steps=_natural("gradient_accumulation_steps", accumulation),
        weight_decay=arguments.weight_decay,
        warmup_ratio=arguments.warmup_ratio,
        max_grad_norm=arguments.max_grad_norm,
        lr_scheduler_type=arguments.lr_scheduler_type,
        adam_beta1=arguments.adam_beta1,
        adam_beta2=arguments.adam_beta2,
        neftune_noise_alpha=arguments.neftune_noise_alpha,
    )


def _deepspeed(text: str, cwd: Path) -> str:
    """The name of a configuration that comes with the trainer, or a file's path, absolute."""
    return text if text.startswith("default-") else absolute(text, cwd)


def export_spec(arguments: ExportArguments, here: Surroundings) -> ExportSpec:
    """What `finery export` asks the quantizer for. Raises INVALID_ARGUMENT."""
    if not arguments.ckpt_dir:
        _need_model(arguments.model_type, arguments.model_id_or_path, "ckpt_dir")
    if not arguments.merge_lora and not arguments.quant_bits:
        raise invalid("merge_lora", "nothing to do: pass --merge_lora true, --quant_bits 4, or both.")
    return ExportSpec(
        ckpt_dir=absolute(arguments.ckpt_dir, here.cwd),
        model=here.model(arguments.model_type, arguments.model_id_or_path),
        merge_lora=arguments.merge_lora,
        quant_bits=_natural("quant_bits", arguments.quant_bits) or 0,
        quant_method=arguments.quant_method if arguments.quant_bits else "",
        datasets=here.datasets(arguments.dataset),
        quant_n_samples=_natural("quant_n_samples", arguments.quant_n_samples),
        quant_seqlen=_natural("quant_seqlen", arguments.quant_seqlen),
        dataset_seed=_natural("dataset_seed", arguments.dataset_seed),
        output_dir=absolute(arguments.output_dir, here.cwd),
        exist_ok=arguments.exist_ok,
        devices=here.devices(),
    )


def deployment_spec(arguments: ServingArguments, here: Surroundings) -> DeploymentSpec:
    """What `finery deploy` asks the inference service for. Raises INVALID_ARGUMENT."""
    if not arguments.ckpt_dir:
        _need_model(arguments.model_type, arguments.model_id_or_path, "ckpt_dir")
    return DeploymentSpec(
        ckpt_dir=absolute(arguments.ckpt_dir, here.cwd),
        model=here.model(arguments.model_type, arguments.model_id_or_path),
        served_model_name=arguments.served_model_name,
        infer_backend=arguments.infer_backend,
        max_model_len=_natural("max_model_len", arguments.max_model_len),
        dtype=arguments.dtype,
        gpu_memory_utilization=arguments.gpu_memory_utilization,
        tensor_parallel_size=_natural("tensor_parallel_size", arguments.tensor_parallel_size),
        enable_lora=arguments.enable_lora or None,
        max_loras=_natural("max_loras", arguments.max_loras),
        max_lora_rank=_natural("max_lora_rank", arguments.max_lora_rank),
        engine_args=_engine_args(arguments.engine_args),
    )


def adapter_spec(ckpt_dir: str, served_model_name: str, here: Surroundings) -> AdapterSpec:
    """What `finery adapters create` asks the inference service for."""
    return AdapterSpec(ckpt_dir=absolute(ckpt_dir, here.cwd), served_model_name=served_model_name)


def _engine_args(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs as the service takes them: values as JSON, of which a bare word is a string."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.removeprefix("--").replace("-", "_")
        if not (name and equals):
            raise invalid("engine_args", f"{pair!r} is not NAME=VALUE; write for instance max_num_seqs=64.")
        if name in found:
            raise invalid("engine_args", f"{name} is given twice; leave one out.")
        found[name] = value if _is_json(value) else json.dumps(value)
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _need_model(model_type: str, model_id_or_path: str, *others: str) -> None:
    if not model_type and not model_id_or_path:
        flags = " or ".join(f"--{name}" for name in ("model_type", "model_id_or_path", *others))
        raise invalid("model_type", f"say which model: {flags}. `finery models` lists the names.")


def _at_most_two(field: str, values: tuple[str, ...]) -> None:
    if len(values) > 2:
        given = " ".join(values)
        raise invalid(
            field, f"one, or a Chinese and an English one, not {len(values)} ({given}); quote a name of several words."
        )


def _natural(field: str, value: int | None) -> int | None:
    """The number, if a uint32 holds it."""
    if value is not None and not 0 <= value < 2**32:
        raise invalid(field, f"{value} is out of range; write a whole number from 0 to {2**32 - 1}.")
    return value
