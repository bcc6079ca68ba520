"""What the services share: config, errors, life cycle, gRPC, bus, telemetry and health.

Nothing here knows a service. A thing moves here when a third part of the repo needs it.
"""
