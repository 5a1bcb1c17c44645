"""What a worker hands in."""

from __future__ import annotations

from collections.abc import Sequence

from finery_quantizer.plan import ExportPlan
from finery_shared.artifacts import read_manifest
from finery_shared.jobs.worker import Outcome, StagedArtifact


def outcome_of(artifacts: Sequence[StagedArtifact]) -> Outcome:
    """The artifacts in their order, and the figures of all their manifests."""
    figures: dict[str, float] = {}
    for artifact in artifacts:
        figures |= read_manifest(artifact.path).metrics
    return Outcome(list(artifacts), figures)


def there_already(plan: ExportPlan) -> list[StagedArtifact]:
    """What a plan that is done asks for, in place."""
    wanted = ((plan.merged, "merged"), (plan.quantized, "quantized"))
    return [StagedArtifact(path, path, role) for path, role in wanted if path is not None]
