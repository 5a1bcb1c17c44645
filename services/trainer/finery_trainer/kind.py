"""What the job engine must know of training jobs."""

from __future__ import annotations

from collections.abc import Mapping

from finery.trainer.v1.trainer_pb2 import TrainingSpec
from finery_shared.jobs.publication import Published
from finery_trainer.convert import to_output


class TrainingKind:
    """Training jobs for the job engine."""

    def environment(self, spec: bytes) -> Mapping[str, str]:
        """The devices that the worker may see."""
        devices = TrainingSpec.FromString(spec).devices
        chosen = devices.HasField("cuda_visible_devices")
        return {"CUDA_VISIBLE_DEVICES": devices.cuda_visible_devices} if chosen else {}

    def ranks(self, spec: bytes) -> int:
        """One for each device that the rows or the model are spread over; DeepSpeed wants a group even for one."""
        asked = TrainingSpec.FromString(spec)
        ranks = asked.devices.nproc_per_node
        return ranks if ranks > 1 or asked.deepspeed else 0

    def replaces_output(self, spec: bytes) -> bool:
        """Never: every attempt writes to a directory of its own name."""
        return False

    def output(self, published: list[Published], figures: Mapping[str, float]) -> bytes:
        """The serialized TrainingOutput."""
        return to_output(published, figures).SerializeToString()
