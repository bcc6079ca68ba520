"""Errors of a model folder that cannot be served; they name the field or tensor at fault."""


class ModelError(ValueError):
    """A model folder cannot be served; `field` is the configuration key or tensor at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class ModelConfigError(ModelError):
    """`config.json` lacks a field or asks for something that is not implemented."""


class WeightError(ModelError):
    """A tensor is missing, or has another shape than the configuration says."""
