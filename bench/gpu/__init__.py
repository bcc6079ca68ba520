"""The generator on a GPU: its kernels against torch, its engine against a floor and a peer."""
