"""Reads typed values out of a decoded JSON object; every refusal names the field.

Knows JSON's types and their traps, not what the fields mean. `null` counts as absent.
"""

import math
from collections.abc import Sequence
from typing import Any

from mesh.errors import MeshError, invalid

_EMPTY: tuple[Any, ...] = ([], {}, "")


class Fields:
    """One JSON object being read: what nobody took by the end is refused.

    `path` is the object's own name in the request, such as `messages[0]`; empty at the root.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, dict):
            raise wrong_type(path or "body", "an object", value)
        self._left: dict[str, Any] = dict(value)
        self._path = path

    def name(self, field: str) -> str:
        """Return the field's name from the request's root."""
        return f"{self._path}.{field}" if self._path else field

    def take(self, field: str) -> Any:
        """Take the raw value; None where it is absent."""
        return self._left.pop(field, None)

    def required(self, field: str) -> Any:
        """Take the raw value; refuse absence."""
        value = self.take(field)
        if value is None:
            raise invalid(self.name(field), f"Missing required field: {self.name(field)}.")
        return value

    def integer(self, field: str, low: int, high: int) -> int | None:
        """Take an integer within [low, high]."""
        value = self.take(field)
        return None if value is None else integer(self.name(field), value, low, high)

    def number(self, field: str, low: float, high: float, *, above: bool = False) -> float | None:
        """Take a finite number within [low, high], or (low, high] with `above`."""
        value = self.take(field)
        if value is None:
            return None
        name = self.name(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(name, "a number", value)
        within = low < value <= high if above else low <= value <= high
        if not within:
            bracket = "(" if above else "["
            raise invalid(name, f"{name} must be within {bracket}{low:g}, {high:g}].")
        return float(value)

    def boolean(self, field: str) -> bool:
        """Take true or false; false where it is absent."""
        value = self.take(field)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise wrong_type(self.name(field), "a boolean", value)

    def text(self, field: str, *, low: int = 0, high: int | None = None) -> str | None:
        """Take a string of `low` to `high` characters."""
        value = self.take(field)
        return None if value is None else text(self.name(field), value, low=low, high=high)

    def choice(self, field: str, allowed: Sequence[str]) -> str | None:
        """Take one of some words."""
        value = self.text(field)
        if value is None or value in allowed:
            return value
        listed = ", ".join(f"`{word}`" for word in allowed)
        raise invalid(self.name(field), f"{self.name(field)} must be one of {listed}.")

    def only_default(self, field: str, *values: Any) -> None:
        """Accept only values that change nothing: null, empties and `values`."""
        value = self.take(field)
        if value is None or value in _EMPTY:
            return
        if any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values):
            return
        raise invalid(self.name(field), f"{self.name(field)} is not supported yet.")

    def ignore(self, *fields: str) -> None:
        """Accept any value of fields that change nothing in the answer."""
        for field in fields:
            self._left.pop(field, None)

    def finish(self) -> None:
        """Refuse what is left; its values change meaning that we do not know."""
        for field in self._left:
            name = printable(self.name(field))
            raise invalid(name, f"Unrecognized request argument supplied: {name}")


def integer(name: str, value: Any, low: int, high: int) -> int:
    """Return `value` as an integer within [low, high]; booleans and floats are none."""
    if type(value) is not int:
        raise wrong_type(name, "an integer", value)
    if not low <= value <= high:
        raise invalid(name, f"{name} must be within [{low}, {high}].")
    return value


def text(name: str, value: Any, *, low: int = 0, high: int | None = None) -> str:
    """Return `value` as a string that UTF-8 can carry, of `low` to `high` characters."""
    if not isinstance(value, str):
        raise wrong_type(name, "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise invalid(name, f"{name} holds a surrogate that is no character.") from None
    if len(value) < low:
        raise invalid(name, f"{name} must not be empty.")
    if high is not None and len(value) > high:
        raise invalid(name, f"{name} must have at most {high} characters.")
    return value


def texts(
    name: str, value: Any, *, low: int, high: int, longest: int | None = None
) -> tuple[str, ...]:
    """Return `value` as a list of at most `high` strings of `low` to `longest` characters."""
    if not isinstance(value, list):
        raise wrong_type(name, "a string or a list of strings", value)
    if len(value) > high:
        raise invalid(name, f"{name} must have at most {high} entries.")
    return tuple(
        text(f"{name}[{i}]", entry, low=low, high=longest) for i, entry in enumerate(value)
    )


def wrong_type(name: str, wanted: str, value: Any) -> MeshError:
    """Return the refusal of a value of another type."""
    return invalid(name, f"{name} must be {wanted}, not {_kind(value)}.")


def printable(name: str) -> str:
    """Return a name from the request, fit for a message."""
    return name[:200].encode("ascii", "backslashreplace").decode()


def _kind(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return "a number out of range"
    kinds = {bool: "a boolean", int: "an integer", float: "a number", str: "a string"}
    return {**kinds, list: "a list", dict: "an object"}.get(type(value), "null")
