"""What an operator chooses about the mock model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MockConfig:
    """Times in seconds: of a whole prompt's prefill, and of a decode step whatever its batch.

    A sequence stops by itself after `output_tokens`; 0 lets it run to its `max_tokens`.
    """

    first_token_s: float = 0.0
    token_s: float = 0.0
    output_tokens: int = 0
