"""Errors as OpenAI's clients read them. Knows no transport: bodies are plain dicts."""

from typing import Any

from mesh.errors import Code, MeshError

_DEFAULT_REASONS = {
    Code.UNAUTHENTICATED: "invalid_api_key",
    Code.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
}


class RefusedError(MeshError):
    """A MeshError with OpenAI's machine-readable `code` in `reason`."""

    def __init__(self, code: Code, message: str, *, reason: str, field: str | None = None) -> None:
        super().__init__(code, message, field=field)
        self.reason = reason


def model_not_found(model: str) -> RefusedError:
    """Nobody serves the model that the request names."""
    return RefusedError(
        Code.NOT_FOUND,
        f"The model `{model[:200]}` does not exist or does not do this.",
        reason="model_not_found",
        field="model",
    )


def too_long(field: str, message: str) -> RefusedError:
    """Prompt and answer do not fit the model's context."""
    return RefusedError(
        Code.INVALID_ARGUMENT, message, reason="context_length_exceeded", field=field
    )


def prefix_field(error: MeshError, prefix: str) -> None:
    """Names an error's field from the request's root."""
    if error.field is not None:
        error.field = f"{prefix}.{error.field}"


def body(error: MeshError) -> dict[str, Any]:
    """The JSON body of an error answer and of a stream's error event."""
    reason = getattr(error, "reason", None) or _DEFAULT_REASONS.get(error.code)
    return of(error.code.value.openai, error.message, param=error.field, code=reason)


def of(
    kind: str, message: str, *, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """OpenAI's error shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
