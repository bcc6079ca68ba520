"""The process around the engine: jobs, frames, gRPC, metrics; knows transports and no tensors."""
