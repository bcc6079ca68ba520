"""What the gateway talks about: requests, generation, refusals, and the ports to other services."""
