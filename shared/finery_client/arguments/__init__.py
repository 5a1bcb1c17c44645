"""The arguments of each command and SDK call, by the names that users of ms-swift know."""

from finery_client.arguments.deploy import DeployArguments
from finery_client.arguments.export import ExportArguments
from finery_client.arguments.infer import InferArguments
from finery_client.arguments.sft import SftArguments

__all__ = ["DeployArguments", "ExportArguments", "InferArguments", "SftArguments"]
