"""Arguments of ``finery infer``."""

from __future__ import annotations

from dataclasses import dataclass

from finery_client.arguments.deploy import ServingArguments
from finery_client.arguments.types import Maybe, Switch, Text


@dataclass(frozen=True, kw_only=True)
class InferArguments(ServingArguments):
    """Talk with a model, turn by turn. `clear` forgets the conversation, `exit` ends it.

    Without --ckpt_dir, --model_type and --model_id_or_path it talks with a model that is deployed already.
    """

    model: Text = ""
    """The id of a deployed model (default: the only one there is)."""

    query: Text = ""
    """A single question: show its answer and end."""

    system: Text = ""
    """System prompt (default: the chat template's own)."""

    max_new_tokens: Maybe[int] = None
    """Longest answer in tokens (default: what is left of the context)."""

    temperature: Maybe[float] = None
    """0 always takes the likeliest token (default: the model's)."""

    top_p: Maybe[float] = None
    """Choose among the likeliest tokens that make up this share (default: the model's)."""

    seed: Maybe[int] = None
    """Seed of the sampler."""

    stream: Switch = True
    """Show the answer while it is made."""
