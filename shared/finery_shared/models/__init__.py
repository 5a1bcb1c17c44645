"""The model registry: what Finery knows of each model, and where a model's files are found."""

from finery_shared.models.architectures import ARCHITECTURES, Architecture
from finery_shared.models.derive import from_path
from finery_shared.models.directory import is_complete
from finery_shared.models.hubs import HuggingFaceHub, ModelHub, ModelScopeHub, hubs_from
from finery_shared.models.registry import all_specs, find, get, near_matches
from finery_shared.models.resolve import (
    CheckPath,
    FoundModel,
    ResolvedModel,
    check_readable,
    find_model,
    resolve,
    store_path,
)
from finery_shared.models.shape import GROUP_SIZES, ModelShape, group_size_for
from finery_shared.models.spec import ModelSpec, Recipe, TargetModules

__all__ = [
    "ARCHITECTURES",
    "GROUP_SIZES",
    "Architecture",
    "CheckPath",
    "FoundModel",
    "HuggingFaceHub",
    "ModelHub",
    "ModelScopeHub",
    "ModelShape",
    "ModelSpec",
    "Recipe",
    "ResolvedModel",
    "TargetModules",
    "all_specs",
    "check_readable",
    "find",
    "find_model",
    "from_path",
    "get",
    "group_size_for",
    "hubs_from",
    "is_complete",
    "near_matches",
    "resolve",
    "store_path",
]
