"""Equal requests have equal keys, different ones never."""

import struct

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.pb.cache_pb2 import CacheKey
from mesh.pb.common_pb2 import SamplingParams
from services.cache import keys

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=4)
NAME = (
    "infermesh:answer:5:e3b98a4da31a127d4bde6e43033f66ba274cab0eb7eb1c70ec41402bf6273dd8:"
    "0c06ea684bfb9f9392eebb46b0c15471f1998eb94c0b725b847379c080bf2101"
)
# a small alphabet makes strings that differ only in where they are cut
WORDS = st.text("ab\0é", max_size=3)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
PLAIN_FLOATS = st.sampled_from([0.0, 0.5, 1.0, 2.0])


@st.composite
def cache_keys(draw: st.DrawFn) -> CacheKey:
    """Any key, often one near to another."""
    sampling = SamplingParams(
        max_tokens=draw(st.integers(0, 3)),
        min_tokens=draw(st.integers(0, 2)),
        temperature=draw(PLAIN_FLOATS),
        top_k=draw(st.integers(0, 2)),
        top_p=draw(PLAIN_FLOATS),
        seed=draw(st.none() | st.integers(0, 2)),
        stop_token_ids=draw(IDS),
        ignore_eos=draw(st.booleans()),
        min_p=draw(PLAIN_FLOATS),
        typical_p=draw(PLAIN_FLOATS),
        repetition_penalty=draw(PLAIN_FLOATS),
        frequency_penalty=draw(PLAIN_FLOATS),
        presence_penalty=draw(PLAIN_FLOATS),
        logit_bias=draw(st.dictionaries(st.integers(0, 3), PLAIN_FLOATS, max_size=2)),
        allowed_token_ids=draw(IDS),
        bad_token_ids=draw(IDS),
        logprobs=draw(st.none() | st.integers(0, 2)),
        prompt_logprobs=draw(st.none() | st.integers(0, 2)),
        include_stop_token=draw(st.booleans()),
    )
    return CacheKey(
        tenant=draw(WORDS),
        model=draw(WORDS),
        model_revision=draw(WORDS),
        prompt_token_ids=draw(IDS),
        sampling=draw(st.none() | st.just(sampling)),
        stop=draw(st.lists(WORDS, max_size=3)),
        include_stop=draw(st.booleans()),
        answer_prefix=draw(WORDS),
    )


def canonical(key: CacheKey) -> CacheKey:
    """The same key with its sampling message present."""
    copy = CacheKey()
    copy.CopyFrom(key)
    copy.sampling.SetInParent()
    return copy


@PATIENT
@given(cache_keys(), cache_keys())
def test_keys_are_equal_exactly_where_requests_are(a: CacheKey, b: CacheKey) -> None:
    """No cut between strings, lists or fields makes two requests look alike."""
    assert (keys.encode(a) == keys.encode(b)) == (canonical(a) == canonical(b))
    assert (keys.name(a) == keys.name(b)) == (canonical(a) == canonical(b))


@PATIENT
@given(WORDS, WORDS, WORDS, st.lists(WORDS, max_size=3))
def test_text_does_not_move_between_fields(a: str, b: str, c: str, stop: list[str]) -> None:
    """The concatenation is the same, the requests are not."""
    moved = CacheKey(tenant=a, model=b + c, stop=stop)
    key = CacheKey(tenant=a, model=b, model_revision=c, stop=stop)
    assert (keys.encode(key) == keys.encode(moved)) == (c == "")
    joined = CacheKey(tenant=a, model=b, model_revision=c, stop=["".join(stop)])
    assert (keys.encode(key) == keys.encode(joined)) == (len(stop) == 1)


def fields(message: type[Message]) -> list[str]:
    """Names of all fields."""
    return [field.name for field in message.DESCRIPTOR.fields]


def changed(message: Message, name: str) -> None:
    """Gives a field a value that is not its default."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        getattr(message, name)[1] = 1
        return
    if field.message_type is not None:
        getattr(message, name).SetInParent()
        return
    kinds: dict[int, object] = {FieldDescriptor.TYPE_STRING: "x", FieldDescriptor.TYPE_BOOL: True}
    value = kinds.get(field.type, 1)
    if isinstance(getattr(message, name), str | int | float):
        setattr(message, name, value)
    else:
        getattr(message, name).append(value)


@pytest.mark.parametrize("name", [n for n in fields(CacheKey) if n != "sampling"])
def test_every_field_counts(name: str) -> None:
    """A field that the contract gains is missing here until the encoding has it."""
    key = CacheKey()
    changed(key, name)
    assert keys.name(key) != keys.name(CacheKey())


@pytest.mark.parametrize("name", fields(SamplingParams))
def test_every_sampling_field_counts(name: str) -> None:
    """A seed of 0 is not the same as none."""
    key = CacheKey()
    changed(key.sampling, name)
    assert keys.name(key) != keys.name(CacheKey())
    seeded = CacheKey(sampling=SamplingParams(seed=0))
    assert keys.name(seeded) != keys.name(CacheKey())


def test_a_token_of_id_0_counts() -> None:
    """A list or map that holds nothing but zeros is not an empty one."""
    plain = keys.name(CacheKey())
    for sampling in (SamplingParams(stop_token_ids=[0]), SamplingParams(logit_bias={0: 0.0})):
        assert keys.name(CacheKey(sampling=sampling)) != plain


def test_the_same_number_has_one_form() -> None:
    """Minus zero is zero, and 0.7 is the proto's 32-bit 0.7."""
    minus = CacheKey(sampling=SamplingParams(temperature=-0.0, top_p=-0.0))
    assert keys.name(minus) == keys.name(CacheKey(sampling=SamplingParams()))
    rounded = struct.unpack("<f", struct.pack("<f", 0.7))[0]
    a, b = (CacheKey(sampling=SamplingParams(temperature=t)) for t in (0.7, rounded))
    assert keys.name(a) == keys.name(b)


@PATIENT
@given(st.text(max_size=5), st.text(max_size=5))
def test_a_tenants_keys_begin_with_its_prefix_alone(a: str, b: str) -> None:
    """Whatever its name holds; the prefix has no pattern characters."""
    name = keys.name(CacheKey(tenant=a))
    assert name.startswith(keys.prefix(a))
    assert name.startswith(keys.prefix(b)) == (a == b)
    assert not set(keys.prefix(a)) & set(b"*?[]\\^")


def test_names_stay_the_same_between_versions() -> None:
    """Whoever changes the encoding counts VERSION up: old answers must not be found by it."""
    key = CacheKey(
        tenant="t",
        model="m",
        model_revision="r",
        prompt_token_ids=[1, 2**32 - 1],
        sampling=SamplingParams(max_tokens=5, temperature=0.5, seed=7, stop_token_ids=[3]),
        stop=["a", ""],
        include_stop=True,
    )
    assert keys.VERSION == 5
    assert keys.name(key).decode() == NAME
