"""Between the contract's messages and the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from finery.quantizer.v1.quantizer_pb2 import ExportJob, ExportOutput, ExportSpec
from finery_quantizer.request import ExportRequest
from finery_shared.jobs.publication import Published
from finery_shared.jobs.rows import JobRecord

_OPTIONAL = ("quant_n_samples", "quant_seqlen", "dataset_seed")


def request_from(spec: ExportSpec) -> ExportRequest:
    """The request that a spec makes; what it leaves unset takes the domain's default."""
    said = {field.name for field, _ in spec.ListFields()}
    given: dict[str, Any] = {name: int(getattr(spec, name)) for name in _OPTIONAL if name in said}
    if spec.quant_method:
        given["quant_method"] = spec.quant_method.lower()
    return ExportRequest(
        ckpt_dir=spec.ckpt_dir,
        model_type=spec.model.model_type,
        model_id_or_path=spec.model.model_id_or_path,
        merge_lora=spec.merge_lora,
        quant_bits=spec.quant_bits,
        datasets=tuple(spec.datasets),
        output_dir=spec.output_dir,
        exist_ok=spec.exist_ok,
        **given,
    )


def filled(spec: ExportSpec, request: ExportRequest) -> ExportSpec:
    """The spec with the defaults and the choices of `request` filled in."""
    result = ExportSpec()
    result.CopyFrom(spec)
    result.quant_method = request.quant_method if request.quant_bits else ""
    del result.datasets[:]
    result.datasets.extend(request.datasets)
    for name in _OPTIONAL:
        setattr(result, name, getattr(request, name))
    return result


def recipe(request: ExportRequest) -> dict[str, Any]:
    """Every argument of the job, for manifests."""
    return asdict(request) | {"datasets": list(request.datasets)}


def to_job(record: JobRecord) -> ExportJob:
    """The resource that a row of the job database stands for."""
    job = ExportJob(name=record.name, spec=ExportSpec.FromString(record.spec), status=record.status)
    if record.output is not None:
        job.output.MergeFromString(record.output)
    return job


def to_output(published: list[Published], figures: Mapping[str, float]) -> ExportOutput:
    """The output message: published artifacts by their roles."""
    output = ExportOutput(figures=figures)
    for item in published:
        (output.merged if item.role == "merged" else output.quantized).CopyFrom(item.artifact)
    return output
