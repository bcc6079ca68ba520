"""What the services share: settings, errors, life cycle, the two transports, queues and telemetry.

Nothing here knows a service. A thing moves here when a second service needs it.
"""
