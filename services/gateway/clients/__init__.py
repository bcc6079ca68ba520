"""The other services of the mesh, as ports of the domain over gRPC."""
