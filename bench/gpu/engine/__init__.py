"""The engine on a GPU: the gate that its tokens must pass, decode rates, a workload."""
