"""gRPC settings that client and server must agree on."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 64 * 2**20

_SIZES = (("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.max_send_message_length", MAX_MESSAGE_BYTES))

CHANNEL_OPTIONS = (
    *_SIZES,
    # How far a stream may run ahead of its reader, in bytes, and no probing for more: the sender of one that lags
    # waits, and an engine puts together what it made meanwhile, where a deep buffer would only hold it back.
    ("grpc.http2.lookahead_bytes", 4096),
    ("grpc.http2.bdp_probe", 0),
    # A peer that vanished without closing its connection is noticed after a ping and its timeout.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A restarted service is found again within a second or so.
    ("grpc.initial_reconnect_backoff_ms", 200),
    # How long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)

SERVER_OPTIONS = (
    *_SIZES,
    # Two servers on one port must be an error, not a lottery.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)
