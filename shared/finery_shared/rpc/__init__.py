"""gRPC as every Finery process speaks it: one server, one channel, one way to tell errors."""

from finery_shared.rpc.channel import open_channel, open_sync_channel
from finery_shared.rpc.security import RpcSecurity
from finery_shared.rpc.server import RpcServer, Servicer
from finery_shared.rpc.status import from_rpc_error, to_status

__all__ = ["RpcSecurity", "RpcServer", "Servicer", "from_rpc_error", "open_channel", "open_sync_channel", "to_status"]
