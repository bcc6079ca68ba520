"""Why a model could not be had."""


class PullError(Exception):
    """A model could not be had; the message is for the person who asked."""
