"""Every engine that the bench times, each a worker process in an environment of its own."""
