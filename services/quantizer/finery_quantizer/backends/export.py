"""One export from plan to staged, checked artifacts."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from finery_quantizer.backends.awq.backend import AwqBackend
from finery_quantizer.backends.base import Tell
from finery_quantizer.backends.checkpoint.device import pick_device
from finery_quantizer.backends.checkpoint.tokenizer import load_tokenizer
from finery_quantizer.backends.checks.merged import MergeCheck
from finery_quantizer.backends.checks.quantized import Bounds, QuantizationCheck
from finery_quantizer.backends.lora.adapter import read_adapter
from finery_quantizer.backends.lora.fold import fold
from finery_quantizer.calibration import Blocks, calibration_rows, cut_blocks
from finery_quantizer.convert import recipe
from finery_quantizer.outcome import outcome_of
from finery_quantizer.plan import ExportPlan
from finery_quantizer.settings import QuantizerSettings
from finery_shared.artifacts import Kind, Manifest, hash_files, manifest_digest, write_manifest
from finery_shared.datasets import Conversation, heldout_conversations
from finery_shared.jobs.worker import Outcome, StagedArtifact, WorkerContext
from finery_shared.templates.render import Rendered
from finery_shared.templates.rows import render_row

MERGE_CHECK_ROWS = 12


@dataclass(frozen=True)
class Export:
    """Runs one plan. `written` is called with each model's directory between writing and checking it."""

    plan: ExportPlan
    settings: QuantizerSettings
    context: WorkerContext
    written: Callable[[Path], None] = lambda _directory: None

    def run(self) -> Outcome:
        """Merge and quantize as planned; what is there already is used again."""
        plan = self.plan
        self.context.plan(_phases(plan))
        artifacts: list[StagedArtifact] = []
        source = plan.model
        if plan.merged is not None:
            source = plan.merged if plan.reuse_merged else self._merge(plan.merged)
            artifacts.append(StagedArtifact(source, plan.merged, "merged"))
        if plan.quantized is not None:
            made = plan.quantized if plan.reuse_quantized else self._quantize(source, plan.quantized)
            artifacts.append(StagedArtifact(made, plan.quantized, "quantized"))
        return outcome_of(artifacts)

    def _merge(self, destination: Path) -> Path:
        plan, context = self.plan, self.context
        assert plan.adapter is not None
        staged = context.state / destination.name
        if (staged / "manifest.json").is_file():  # written last, by an attempt before this one
            return staged
        shutil.rmtree(staged, ignore_errors=True)
        for done, total in fold(plan.model, read_adapter(plan.adapter), staged):
            context.progress(done, total, "merging")
            context.raise_if_cancelled()
        self.written(staged)
        context.progress(0, 1, "checking the merged model")
        rows = _rendered(load_tokenizer(staged), heldout_conversations()[:MERGE_CHECK_ROWS])
        tell = self._telling("checking the merged model")
        check = MergeCheck(plan.model, plan.adapter, staged, self.settings.max_merge_divergence, tell)
        figures = check.run(rows)
        context.metrics(0, figures, "merge")
        context.log(f"merged: {figures['merge_divergence']:.2e} nats a token from the adapter's answers")
        context.raise_if_cancelled()
        self._manifest(staged, Kind.MODEL, plan.adapter, plan.adapter, figures)
        return staged

    def _quantize(self, source: Path, destination: Path) -> Path:
        plan, context = self.plan, self.context
        staged = context.staging / destination.name
        tokenizer = load_tokenizer(source)
        blocks = self._calibration(tokenizer)
        backend = AwqBackend(source, pick_device(), context.state / "layers")
        written = backend.quantize(source, staged, blocks.ids, self._telling("quantizing"))
        self.written(staged)
        context.progress(0, 1, "checking the quantized model")
        bounds = Bounds(self.settings.max_perplexity_ratio, self.settings.rounding_tolerance)
        check = QuantizationCheck(backend, source, written, bounds, self._telling("checking the quantized model"))
        rows = _rendered(tokenizer, heldout_conversations())
        figures = check.run(tokenizer, rows, plan.recipe, plan.spec.identity)
        figures |= {"calibration_tokens": float(blocks.used), "calibration_rows": float(blocks.rows), **backend.figures}
        context.metrics(plan.spec.shape.layers, figures, "quantize")
        context.log(
            f"quantized: perplexity {figures['perplexity_merged']:.2f} before, "
            f"{figures['perplexity_quantized']:.2f} after, "
            f"{figures['perplexity_round_to_nearest']:.2f} by plain rounding"
        )
        context.raise_if_cancelled()
        self._manifest(staged, Kind.QUANTIZED_MODEL, source, plan.merged or plan.model, figures)
        return staged

    def _calibration(self, tokenizer: PreTrainedTokenizerFast) -> Blocks:
        request, settings = self.plan.request, self.settings
        rows = calibration_rows(request.datasets, request, self.plan.recipe)
        limit = settings.cpu_calibration_tokens if pick_device().type == "cpu" else None
        blocks = cut_blocks(
            tokenizer, rows, request.quant_seqlen, at_least=settings.min_calibration_tokens, at_most=limit
        )
        text = f"calibrating with {blocks.used} of {blocks.available} tokens, {blocks.rows} rows"
        raised = ""
        if limit is not None and blocks.available > limit:
            raised = " (FINERY_QUANTIZER_CPU_CALIBRATION_TOKENS raises the limit that a CPU has)"
        self.context.log(f"{text} of {', '.join(request.datasets)}{raised}")
        return blocks

    def _telling(self, phase: str) -> Tell:
        """What passes on the layers done in a phase, and stops the work when the job is cancelled."""

        def tell(done: int, total: int) -> None:
            self.context.progress(done, total, phase)
            self.context.raise_if_cancelled()

        return tell

    def _manifest(self, staged: Path, kind: Kind, source: Path, parent: Path, figures: Mapping[str, float]) -> None:
        """Write the manifest; `source` is where the parent's files are now, `parent` where they will be."""
        plan = self.plan
        has_manifest = (source / "manifest.json").is_file()
        base = plan.parent.base_model if plan.parent is not None and plan.adapter is None else str(plan.model)
        write_manifest(
            staged,
            Manifest(
                kind=kind,
                model_type=plan.spec.model_type,
                base_model=base,
                template=plan.spec.template,
                parent=str(parent),
                parent_manifest_sha256=manifest_digest(source) if has_manifest else None,
                job=self.context.job,
                recipe=recipe(plan.request) | {"training": plan.recipe.model_dump(mode="json")},
                metrics=dict(figures),
                files=hash_files(staged),
            ),
        )


def _phases(plan: ExportPlan) -> dict[str, float]:
    """The phases to come, with their rough shares of the time."""
    phases: dict[str, float] = {}
    if plan.merged is not None and not plan.reuse_merged:
        phases |= {"merging": 0.05, "checking the merged model": 0.1}
    if plan.quantized is not None and not plan.reuse_quantized:
        phases |= {"quantizing": 0.65, "checking the quantized model": 0.2}
    return phases


def _rendered(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Conversation]) -> list[Rendered]:
    return [render_row(tokenizer, row) for row in rows]
