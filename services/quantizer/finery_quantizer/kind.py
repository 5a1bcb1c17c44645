"""What the job engine must know of export jobs."""

from __future__ import annotations

from collections.abc import Mapping

from finery.quantizer.v1.quantizer_pb2 import ExportSpec
from finery_quantizer.convert import to_output
from finery_shared.jobs.publication import Published


class ExportKind:
    """Export jobs for the job engine."""

    def environment(self, spec: bytes) -> Mapping[str, str]:
        """The devices that the worker may see."""
        devices = ExportSpec.FromString(spec).devices
        chosen = devices.HasField("cuda_visible_devices")
        return {"CUDA_VISIBLE_DEVICES": devices.cuda_visible_devices} if chosen else {}

    def ranks(self, spec: bytes) -> int:
        """Always one process by itself."""
        return 0

    def replaces_output(self, spec: bytes) -> bool:
        """Whether an existing output may be replaced."""
        return ExportSpec.FromString(spec).exist_ok

    def output(self, published: list[Published], figures: Mapping[str, float]) -> bytes:
        """The serialized ExportOutput."""
        return to_output(published, figures).SerializeToString()
