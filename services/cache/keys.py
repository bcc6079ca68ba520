"""What makes two requests the same: one digest over everything that determines an answer.

Every value is framed by its length, so that no two keys have the same encoding, whatever their
strings hold. Knows nothing of where answers are kept.
"""

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence

from mesh.pb.cache_pb2 import CacheKey
from mesh.pb.common_pb2 import SamplingParams

# counts the encodings of keys and values: another version never reads this one's answers
VERSION = 3
# C's unsigned type of four bytes on this machine
ID_TYPE = next(code for code in "IL" if array(code).itemsize == 4)


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
        ]
    )


def _sampling(sampling: SamplingParams) -> bytes:
    """Absent parameters and an absent message are their proto defaults."""
    numbers = struct.pack(
        "<IIfIf?fffffII",
        sampling.max_tokens,
        sampling.min_tokens,
        sampling.temperature + 0.0,  # -0.0 is 0.0
        sampling.top_k,
        sampling.top_p + 0.0,
        sampling.ignore_eos,
        sampling.min_p + 0.0,
        sampling.typical_p + 0.0,
        sampling.repetition_penalty + 0.0,
        sampling.frequency_penalty + 0.0,
        sampling.presence_penalty + 0.0,
        sampling.n,
        sampling.beam_width,
    )
    optional = [
        _framed([struct.pack("<Q", getattr(sampling, name))] if sampling.HasField(name) else [])
        for name in ("seed", "logprobs", "prompt_logprobs")
    ]
    penalty = struct.pack("<f", sampling.length_penalty + 0.0)
    optional.append(_framed([penalty] if sampling.HasField("length_penalty") else []))
    bias = [struct.pack("<If", i, b + 0.0) for i, b in sorted(sampling.logit_bias.items())]
    ids = (sampling.stop_token_ids, sampling.allowed_token_ids, sampling.bad_token_ids)
    return _framed([numbers, *optional, b"".join(bias), *map(_ids, ids)])


def _ids(ids: Sequence[int]) -> bytes:
    """Four bytes each, little-endian. An array takes a third of struct's time."""
    packed = array(ID_TYPE, ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _framed(parts: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<Q", len(part)) + part for part in parts)
