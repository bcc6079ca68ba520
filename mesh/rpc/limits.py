"""Limits that both ends of a call hold to."""

from typing import Any

MAX_MESSAGE_BYTES = 32 * 2**20
# of a call whose caller names none
DEFAULT_LIMIT_S = 600.0

MESSAGE_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
]
