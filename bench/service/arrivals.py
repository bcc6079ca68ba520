"""When requests are due, drawn before the first is sent."""

import random


def poisson(rate_per_s: float, duration_s: float, seed: int) -> list[float]:
    """Return the moments of a Poisson process, ascending, in seconds from the start."""
    rng = random.Random(seed)
    moments: list[float] = []
    moment_s = rng.expovariate(rate_per_s)
    while moment_s < duration_s:
        moments.append(moment_s)
        moment_s += rng.expovariate(rate_per_s)
    return moments
