"""The order of the calls that answer a request. Knows neither HTTP, nor gRPC, nor an endpoint."""
