"""The model that is served where nobody names one."""

from typing import NamedTuple

from cli.models.catalogue import BUNDLED_MODEL, CHAT_MODEL, catalogue, too_large
from cli.models.locate import Location, UnknownModelError, locate
from cli.models.store import Store


class Default(NamedTuple):
    """A model, and why it is not the chat model, in a line; None where it is."""

    location: Location
    notice: str | None


def default_model(store: Store, available_bytes: int) -> Default:
    """Return the chat model where it was pulled and fits, else the bundled one. Fetches nothing."""
    problem = too_large(catalogue()[CHAT_MODEL], available_bytes)
    if problem is None:
        try:
            return Default(locate(CHAT_MODEL, store), None)
        except UnknownModelError as error:
            # it says how to get the model
            problem = str(error)
    return Default(locate(BUNDLED_MODEL, store), f"serving {BUNDLED_MODEL}: {problem}")
