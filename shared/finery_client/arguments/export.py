"""Arguments of ``finery export`` and ``finery_client.export``."""

from __future__ import annotations

from dataclasses import dataclass

from finery_client.arguments.types import Maybe, Switch, Text, Words


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Merge an adapter into its base model, quantize a model, or both, and follow the job to its end."""

    ckpt_dir: Text = ""
    """The checkpoint to export: output/<model_type>/v<N>-<time>/checkpoint-<step>."""

    model_type: Text = ""
    """The model to quantize when there is no --ckpt_dir, by a name that `finery models` lists."""

    model_id_or_path: Text = ""
    """A directory with that model, or its hub id; with --ckpt_dir, where the base model is now."""

    merge_lora: Switch = False
    """Fold the adapter into its base model. Needed for an adapter."""

    quant_bits: int = 0
    """4 quantizes to int4, 0 leaves the model as it is."""

    quant_method: str = "awq"
    """How to quantize."""

    dataset: Words = ()
    """Calibration data, as for sft (default: what the checkpoint was trained on)."""

    quant_n_samples: Maybe[int] = None
    """Calibration rows at most (default: 256)."""

    quant_seqlen: Maybe[int] = None
    """Tokens in one calibration block (default: 2048)."""

    dataset_seed: Maybe[int] = None
    """Seed for drawing calibration rows (default: 42)."""

    output_dir: Text = ""
    """Where the output goes (default: beside the checkpoint, as CKPT_DIR-merged and CKPT_DIR-merged-awq-int4)."""

    exist_ok: Switch = False
    """Replace an existing output that was made from something else."""
