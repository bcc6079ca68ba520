"""Readiness of another service, by gRPC's health protocol."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh import rpc
from mesh.context import RequestContext
from mesh.errors import unavailable

PING_LIMIT_S = 1.0


class ServicePing:
    """A readiness check: some replica behind the channel says that it serves."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = health_pb2_grpc.HealthStub(channel)

    async def __call__(self) -> None:
        """Raise MeshError within PING_LIMIT_S when none does."""
        context = RequestContext.start(PING_LIMIT_S)
        reply = await rpc.call(self._stub.Check, health_pb2.HealthCheckRequest(), context)
        if reply.status != health_pb2.HealthCheckResponse.SERVING:
            raise unavailable("The service is not ready.")
