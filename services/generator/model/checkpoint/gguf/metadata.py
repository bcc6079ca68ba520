"""Typed access to a GGUF file's metadata; errors name the entry as the file does."""

from collections.abc import Mapping
from typing import Any

from services.generator.model.errors import ModelConfigError

_ARCHITECTURE = "general.architecture"
_LIMIT = 2**31 - 1


class Metadata:
    """Entries of a file, those of its architecture by their short names."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        architecture = values.get(_ARCHITECTURE)
        if not isinstance(architecture, str):
            raise ModelConfigError(_ARCHITECTURE, "is missing")
        self.architecture = architecture

    def key(self, name: str) -> str:
        """Return the whole name of an entry."""
        return f"{self.architecture}.{name}"

    def get(self, name: str) -> Any:
        """Return a value as it is, None where it is absent."""
        return self._values.get(self.key(name))

    def size(self, name: str, default: int | None = None, limit: int = _LIMIT) -> int:
        """Return an integer from 1 to `limit`, the one that all layers have.

        Raises ModelConfigError.
        """
        value = self.get(name)
        if isinstance(value, list) and value and value == [value[0]] * len(value):
            value = value[0]
        if value is None:
            value = default
        if value is None:
            raise ModelConfigError(self.key(name), "is missing")
        if isinstance(value, list):
            raise ModelConfigError(self.key(name), "differs between layers, which is not supported")
        if type(value) is not int or value < 1:
            raise ModelConfigError(self.key(name), f"must be a positive integer, not {value!r}")
        if value > limit:
            raise ModelConfigError(self.key(name), f"{value} is above {limit}")
        return value

    def optional_size(self, name: str) -> int | None:
        """Return an integer from 1 up, None where it is absent or 0; raises ModelConfigError."""
        return None if self.get(name) in (None, 0) else self.size(name)

    def number(self, name: str, default: float) -> float:
        """Return a number above 0; raises ModelConfigError."""
        value = self.get(name)
        if value is None:
            return default
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise ModelConfigError(self.key(name), f"must be a positive number, not {value!r}")
        return float(value)

    def optional_number(self, name: str) -> float | None:
        """Return a number above 0, None where it is absent or 0; raises ModelConfigError."""
        return None if self.get(name) in (None, 0) else self.number(name, 0.0)

    def refuse(self, neutral: Mapping[str, tuple[Any, ...]]) -> None:
        """Raise ModelConfigError for an entry that says other than one of its neutral values."""
        for name, values in neutral.items():
            value = self.get(name)
            if value is not None and value not in values:
                raise ModelConfigError(self.key(name), f"{value!r} is not supported")

    def __repr__(self) -> str:
        return f"Metadata({self.architecture}, {len(self._values)} entries)"
