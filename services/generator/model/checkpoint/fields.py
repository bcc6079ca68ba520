"""Typed access to `config.json`, by Llama's words, whatever the family's file calls the fields."""

from collections.abc import Mapping
from typing import Any

from services.generator.model.checkpoint.families import Family
from services.generator.model.errors import ModelConfigError


class Fields:
    """The file's values over the family's defaults; errors name a field as the file does."""

    def __init__(self, raw: Mapping[str, Any], family: Family) -> None:
        section = raw.get(family.section) if family.section else None
        self._values = {**family.defaults, **raw, **(section or {})}
        self._names = family.names

    def get(self, field: str, default: Any = None) -> Any:
        """Return the value as it is, or `default` where it is absent or null."""
        value = self._values.get(self.name(field))
        return default if value is None else value

    def name(self, field: str) -> str:
        """Return what the file calls the field."""
        names = self._names.get(field, (field,))
        return next((name for name in names if name in self._values), names[0])

    def positive(self, field: str, default: int | None = None) -> int:
        """Return an integer from 1 up; raises ModelConfigError."""
        value = self.get(field, default)
        if value is None:
            raise ModelConfigError(self.name(field), "is missing")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelConfigError(self.name(field), f"must be a positive integer, not {value!r}")
        return value

    def number(self, field: str, default: float) -> float:
        """Return a number above 0; raises ModelConfigError."""
        value = self.optional_number(field)
        return default if value is None else value

    def optional_number(self, field: str) -> float | None:
        """Return a number above 0, or None where it is absent; raises ModelConfigError."""
        value = self.get(field)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ModelConfigError(self.name(field), f"must be a positive number, not {value!r}")
        return float(value)

    def flag(self, rule: bool | str) -> bool:
        """Return a fixed answer, or that of the field named by `rule`."""
        return rule if isinstance(rule, bool) else bool(self.get(rule, False))

    def __repr__(self) -> str:
        return f"Fields({len(self._values)} values)"
