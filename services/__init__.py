"""The five deployables; every folder here runs as `python -m services.NAME`."""
