"""What makes two requests the same: one digest over everything that determines an answer.

Every value is framed by its length, so that no two keys have the same encoding, whatever their
strings hold. Knows nothing of where answers are kept.
"""

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from mesh.pb.cache_pb2 import CacheKey
from mesh.pb.common_pb2 import SamplingParams

# counts the encodings of keys and values: another version never reads this one's answers
VERSION = 5
# C's unsigned type of four bytes on this machine
ID_TYPE = next(code for code in "IL" if array(code).itemsize == 4)
_FORMATS = {
    FieldDescriptor.TYPE_BOOL: "<?",
    FieldDescriptor.TYPE_FLOAT: "<f",
    FieldDescriptor.TYPE_UINT32: "<I",
    FieldDescriptor.TYPE_UINT64: "<Q",
}


def prefix(tenant: str) -> bytes:
    """Return what all of a tenant's keys in the store begin with, and no other tenant's.

    The name is hashed: it may hold anything, patterns of the store's included.
    """
    name = hashlib.sha256(tenant.encode()).hexdigest()
    return f"infermesh:answer:{VERSION}:{name}:".encode()


def name(key: CacheKey) -> bytes:
    """Where the answer to this request lies in the store."""
    return prefix(key.tenant) + hashlib.sha256(encode(key)).hexdigest().encode()


def encode(key: CacheKey) -> bytes:
    """Return the one encoding of a key: equal for equal keys, different for different ones."""
    return _framed(
        [
            key.tenant.encode(),
            key.model.encode(),
            key.model_revision.encode(),
            _ids(key.prompt_token_ids),
            _sampling(key.sampling),
            _framed(stop.encode() for stop in key.stop),
            struct.pack("<?", key.include_stop),
            key.answer_prefix.encode(),
        ]
    )


def _sampling(sampling: SamplingParams) -> bytes:
    """Return the fields that are set, by number: a field that the contract gains changes no key.

    Absent parameters and an absent message are their proto defaults.
    """
    parts = []
    for field, value in sampling.ListFields():
        encoded = _value(field, value)
        # -0.0 is set, and is the default all the same
        if field.is_repeated or field.has_presence or any(encoded):
            parts += [struct.pack("<I", field.number), encoded]
    return _framed(parts)


def _value(field: FieldDescriptor, value: Any) -> bytes:
    if field.message_type is not None:
        pairs = struct.Struct("<If")
        return b"".join(
            pairs.pack(token_id, bias + 0.0) for token_id, bias in sorted(value.items())
        )
    if field.is_repeated:
        return _ids(value)
    return struct.pack(_FORMATS[field.type], value + 0)


def _ids(ids: Sequence[int]) -> bytes:
    """Four bytes each, little-endian. An array takes a third of struct's time."""
    packed = array(ID_TYPE, ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _framed(parts: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)
