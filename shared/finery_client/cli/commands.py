"""What can be typed: every command with its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from finery_client.arguments import DeployArguments, ExportArguments, InferArguments, SftArguments
from finery_client.arguments.types import Text


@dataclass(frozen=True, kw_only=True)
class UpArguments:
    """Run the four services until interrupted: trainer, quantizer, inference and the gateway with the OpenAI API.

    While they run, all other commands use them. A process that dies is started again.
    """

    inference_processes: int = 1
    """Inference processes behind the gateway."""


@dataclass(frozen=True)
class ListJobs:
    """Show the newest jobs."""

    limit: int = 20
    """Jobs of each kind to show at most."""


@dataclass(frozen=True)
class ShowJob:
    """Show all that is known of a job."""

    name: tyro.conf.Positional[str]
    """The job, for instance trainingJobs/3f2a."""


@dataclass(frozen=True)
class WatchJob:
    """Follow a job to its end."""

    name: tyro.conf.Positional[str]
    """The job, for instance trainingJobs/3f2a."""


@dataclass(frozen=True)
class CancelJob:
    """Stop a job."""

    name: tyro.conf.Positional[str]
    """The job, for instance trainingJobs/3f2a."""


@dataclass(frozen=True)
class JobsCommand:
    """List, show, watch and cancel jobs."""

    command: (
        Annotated[ListJobs, tyro.conf.subcommand("list")]
        | Annotated[ShowJob, tyro.conf.subcommand("show")]
        | Annotated[WatchJob, tyro.conf.subcommand("watch")]
        | Annotated[CancelJob, tyro.conf.subcommand("cancel")]
    )


@dataclass(frozen=True)
class ListDeployments:
    """Show the deployed models."""


@dataclass(frozen=True)
class DeleteDeployment:
    """Unload a deployed model."""

    model: tyro.conf.Positional[str]
    """Its model id, or the name of its deployment."""


@dataclass(frozen=True)
class DeploymentsCommand:
    """List and delete deployed models."""

    command: (
        Annotated[ListDeployments, tyro.conf.subcommand("list")]
        | Annotated[DeleteDeployment, tyro.conf.subcommand("delete")]
    )


@dataclass(frozen=True, kw_only=True)
class CreateAdapter:
    """Load a LoRA adapter beside a model that was deployed with --enable_lora true; it needs no restart."""

    deployment: str
    """The deployed model's id, or the name of its deployment."""

    ckpt_dir: str
    """The adapter, for instance …/checkpoint-93."""

    served_model_name: Text = ""
    """The id under which clients ask for it (default: the model's id, a colon and the directory's name)."""


@dataclass(frozen=True)
class ListAdapters:
    """Show the adapters of all deployed models."""


@dataclass(frozen=True)
class DeleteAdapter:
    """Unload an adapter; its base runs on."""

    model: tyro.conf.Positional[str]
    """Its model id, or its name."""


@dataclass(frozen=True)
class AdaptersCommand:
    """Create, list and delete LoRA adapters beside deployed models."""

    command: (
        Annotated[CreateAdapter, tyro.conf.subcommand("create")]
        | Annotated[ListAdapters, tyro.conf.subcommand("list")]
        | Annotated[DeleteAdapter, tyro.conf.subcommand("delete")]
    )


@dataclass(frozen=True)
class ModelsCommand:
    """List the models that have a name, and those in the local store."""


Command = (
    Annotated[UpArguments, tyro.conf.subcommand("up")]
    | Annotated[SftArguments, tyro.conf.subcommand("sft")]
    | Annotated[ExportArguments, tyro.conf.subcommand("export")]
    | Annotated[DeployArguments, tyro.conf.subcommand("deploy")]
    | Annotated[InferArguments, tyro.conf.subcommand("infer")]
    | Annotated[JobsCommand, tyro.conf.subcommand("jobs")]
    | Annotated[DeploymentsCommand, tyro.conf.subcommand("deployments")]
    | Annotated[AdaptersCommand, tyro.conf.subcommand("adapters")]
    | Annotated[ModelsCommand, tyro.conf.subcommand("models")]
)


def parse(words: Sequence[str]) -> Command:
    """The command that the words say. Raises SystemExit: 0 after help, 2 after what is wrong with them."""
    command: Command = tyro.cli(
        Command,
        prog="finery",
        description="Fine-tune, merge, quantize and serve your own chat model.",
        args=words,
        use_underscores=True,
        config=(
            tyro.conf.FlagConversionOff,
            tyro.conf.DisallowNone,
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.OmitArgPrefixes,
        ),
    )
    return command
