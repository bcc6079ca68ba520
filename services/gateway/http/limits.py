"""Limits of reading and writing over HTTP."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """The largest JSON body, and seconds of silence and of waiting for a slow reader."""

    max_body_bytes: int
    keep_alive_s: float
    write_timeout_s: float
