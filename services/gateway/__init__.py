"""The HTTP edge: OpenAI-compatible REST and SSE in front of the mesh."""
