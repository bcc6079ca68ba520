"""gRPC at both ends: servers with health, reflection and one error edge; calls with deadlines."""

from mesh.rpc.client import StreamMethod, UnaryMethod, call, channel, metadata, stream
from mesh.rpc.server import STOP_GRACE_S, request_context, serve
from mesh.rpc.status import translate

__all__ = [
    "STOP_GRACE_S",
    "StreamMethod",
    "UnaryMethod",
    "call",
    "channel",
    "metadata",
    "request_context",
    "serve",
    "stream",
    "translate",
]
