"""Refusals that say more than a code: `reason` is a word for the caller's program."""

from mesh.errors import Code, MeshError


class RefusedError(MeshError):
    """A MeshError with a machine-readable `reason`."""

    def __init__(self, code: Code, message: str, *, reason: str, field: str | None = None) -> None:
        super().__init__(code, message, field=field)
        self.reason = reason


def model_not_found(model: str) -> RefusedError:
    """Return the refusal of a model that no replica serves."""
    return RefusedError(
        Code.NOT_FOUND,
        f"The model `{model[:200]}` does not exist or does not do this.",
        reason="model_not_found",
        field="model",
    )


def too_long(field: str, message: str) -> RefusedError:
    """Return the refusal of a prompt and answer that do not fit the model's context."""
    return RefusedError(
        Code.INVALID_ARGUMENT, message, reason="context_length_exceeded", field=field
    )
