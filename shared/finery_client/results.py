"""What the calls of the SDK return. Fields can be read as attributes and, as with ms-swift, as items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlparse

from finery.artifacts.v1.artifacts_pb2 import Artifact
from finery.quantizer.v1.quantizer_pb2 import ExportJob
from finery.trainer.v1.trainer_pb2 import TrainingJob


class _Items:
    """``result["field"]`` for ``result.field``."""

    def __getitem__(self, name: str) -> Any:
        try:
            return vars(self)[name]
        except KeyError:
            raise KeyError(f"{name!r}; there are {', '.join(vars(self))}") from None


@dataclass(frozen=True)
class TrainingResult(_Items):
    """The outcome of a fine-tuning job. Checkpoints are absolute paths; empty if there is none."""

    job: str
    best_model_checkpoint: str
    last_model_checkpoint: str
    best_metric: float | None = None
    """The lowest evaluation loss, in nats a token; None without an evaluation split."""
    figures: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, job: TrainingJob) -> TrainingResult:
        """The outcome of a job that has ended."""
        output = job.output
        return cls(
            job=job.name,
            best_model_checkpoint=local_path(output.best_checkpoint),
            last_model_checkpoint=local_path(output.last_checkpoint),
            best_metric=output.best_metric if output.HasField("best_metric") else None,
            figures=dict(output.figures),
        )


@dataclass(frozen=True)
class ExportResult(_Items):
    """The outcome of an export job. Directories are absolute paths; empty if the job did not make one."""

    job: str
    merged: str
    quantized: str
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def ckpt_dir(self) -> str:
        """The last thing made: what to deploy."""
        return self.quantized or self.merged

    @classmethod
    def of(cls, job: ExportJob) -> ExportResult:
        """The outcome of a job that has ended."""
        output = job.output
        return cls(job.name, local_path(output.merged), local_path(output.quantized), dict(output.figures))


def local_path(artifact: Artifact) -> str:
    """The directory of a file:// URI; any other URI as it is."""
    parsed = urlparse(artifact.uri)
    return unquote(parsed.path) if parsed.scheme == "file" else artifact.uri
