"""Old messages stay readable: bytes of version 1, and every field's number, name and type."""

import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from mesh.bus import messages
from mesh.pb import (
    cache_pb2,
    common_pb2,
    events_pb2,
    generator_pb2,
    retriever_pb2,
    tokenizer_pb2,
)

FILES = (common_pb2, events_pb2, tokenizer_pb2, retriever_pb2, cache_pb2, generator_pb2)
SNAPSHOT = Path(__file__).parent / "protos.json"
BUS_MESSAGES = [
    events_pb2.Announcement,
    events_pb2.Hello,
    events_pb2.Command,
    events_pb2.Frame,
    events_pb2.IngestTask,
]

# what version 1 wrote, and what a reader must find in it
WRITTEN: list[tuple[type[Message], str, dict[str, Any]]] = [
    (
        events_pb2.Announcement,
        ("0801120272311a0f0a016d12017218800420b8172a010220042880e497d0123001380240014a01614a0162"),
        {
            "version": 1,
            "replica_id": "r1",
            "model": {
                "id": "m",
                "revision": "r",
                "context_length": 512,
                "vocab_size": 3000,
                "eos_token_ids": [2],
            },
            "room_sequences": 4,
            "room_tokens": "5000000000",
            "running": 1,
            "waiting": 2,
            "draining": True,
            "job_ids": ["a", "b"],
        },
    ),
    (events_pb2.Hello, "080112026731", {"version": 1, "gateway_id": "g1"}),
    (
        events_pb2.Command,
        (
            "0801120267311a340a0161120301ac021a18084010021d0000003f20282d0000403f30003a020203"
            "40012080d095ffbc312a01723201743a01734001"
        ),
        {
            "version": 1,
            "gateway_id": "g1",
            "job": {
                "job_id": "a",
                "prompt_token_ids": [1, 300],
                "sampling": {
                    "max_tokens": 64,
                    "min_tokens": 2,
                    "temperature": 0.5,
                    "top_k": 40,
                    "top_p": 0.75,
                    "seed": "0",
                    "stop_token_ids": [2, 3],
                    "ignore_eos": True,
                },
                "deadline_unix_ms": "1700000000000",
                "model_revision": "r",
                "tenant": "t",
                "cache_salt": "s",
                "priority": -1,
            },
        },
    ),
    (
        events_pb2.Command,
        "08011202673122030a0161",
        {"version": 1, "gateway_id": "g1", "cancel": {"job_id": "a"}},
    ),
    (
        events_pb2.Command,
        "0801120267312a0408021009",
        {"version": 1, "gateway_id": "g1", "resend": {"first": "2", "last": "9"}},
    ),
    (events_pb2.Command, "080112026731", {"version": 1, "gateway_id": "g1"}),
    (
        events_pb2.Frame,
        (
            "080112027231180c22080a0161120307ac0222210a0162120108180222060803100718012a0f0d00"
            "00003f150000803e1d000000402803"
        ),
        {
            "version": 1,
            "replica_id": "r1",
            "number": "12",
            "deltas": [
                {"job_id": "a", "token_ids": [7, 300]},
                {
                    "job_id": "b",
                    "token_ids": [8],
                    "finish_reason": "FINISH_REASON_LENGTH",
                    "usage": {
                        "prompt_tokens": 3,
                        "completion_tokens": 7,
                        "cached_prompt_tokens": 1,
                    },
                    "timings": {"queue_s": 0.5, "prefill_s": 0.25, "decode_s": 2.0},
                },
            ],
            "oldest": "3",
        },
    ),
    (
        events_pb2.Frame,
        "080112027231180c2803",
        {"version": 1, "replica_id": "r1", "number": "12", "oldest": "3"},
    ),
    (
        events_pb2.IngestTask,
        "08011201691a01642201632a04732e6d64320d746578742f6d61726b646f776e",
        {
            "version": 1,
            "ingestion_id": "i",
            "document_id": "d",
            "collection": "c",
            "source": "s.md",
            "media_type": "text/markdown",
        },
    ),
    (
        generator_pb2.GenerateRequest,
        "0a0301ac021218084010021d0000003f20282d0000403f30003a02020340011a0173",
        {
            "prompt_token_ids": [1, 300],
            "sampling": {
                "max_tokens": 64,
                "min_tokens": 2,
                "temperature": 0.5,
                "top_k": 40,
                "top_p": 0.75,
                "seed": "0",
                "stop_token_ids": [2, 3],
                "ignore_eos": True,
            },
            "cache_salt": "s",
        },
    ),
    (
        generator_pb2.GenerateResponse,
        "0a010710011a06080310071801220f0d0000003f150000803e1d00000040",
        {
            "token_ids": [7],
            "finish_reason": "FINISH_REASON_STOP",
            "usage": {"prompt_tokens": 3, "completion_tokens": 7, "cached_prompt_tokens": 1},
            "timings": {"queue_s": 0.5, "prefill_s": 0.25, "decode_s": 2.0},
        },
    ),
    (
        tokenizer_pb2.DetokenizeRequest,
        "0a0f0a0161120307ac02180122012e2801",
        {
            "deltas": [
                {
                    "sequence_id": "a",
                    "token_ids": [7, 300],
                    "final": True,
                    "stop": ["."],
                    "include_stop": True,
                }
            ]
        },
    ),
    (
        tokenizer_pb2.DetokenizeResponse,
        "0a0c0a01611202c3a9180122012e",
        {"deltas": [{"sequence_id": "a", "text": "é", "stopped": True, "stop_string": "."}]},
    ),
    (
        tokenizer_pb2.EncodeChatRequest,
        "0a0d0a0475736572120248691a016e1001",
        {
            "messages": [{"role": "user", "content": "Hi", "name": "n"}],
            "add_generation_prompt": True,
        },
    ),
    (
        retriever_pb2.SearchResponse,
        "0a180a01701201641a04732e6d642201782d0000003f30033804",
        {
            "passages": [
                {
                    "id": "p",
                    "document_id": "d",
                    "source": "s.md",
                    "text": "x",
                    "score": 0.5,
                    "start": 3,
                    "end": 4,
                }
            ]
        },
    ),
    (
        cache_pb2.StoreRequest,
        (
            "0a2d0a017412016d1a0172220301ac022a18084010021d0000003f20282d0000403f30003a020203"
            "400132010a380112140a02c3a910011a060803100718012080e2cfaa06183c"
        ),
        {
            "key": {
                "tenant": "t",
                "model": "m",
                "model_revision": "r",
                "prompt_token_ids": [1, 300],
                "sampling": {
                    "max_tokens": 64,
                    "min_tokens": 2,
                    "temperature": 0.5,
                    "top_k": 40,
                    "top_p": 0.75,
                    "seed": "0",
                    "stop_token_ids": [2, 3],
                    "ignore_eos": True,
                },
                "stop": ["\n"],
                "include_stop": True,
            },
            "answer": {
                "text": "é",
                "finish_reason": "FINISH_REASON_STOP",
                "usage": {"prompt_tokens": 3, "completion_tokens": 7, "cached_prompt_tokens": 1},
                "created_unix_s": "1700000000",
            },
            "ttl_s": 60,
        },
    ),
]


@pytest.mark.parametrize(
    ("kind", "data", "fields"), WRITTEN, ids=[kind.__name__ for kind, _, _ in WRITTEN]
)
def test_bytes_of_version_1_are_readable(
    kind: type[Message], data: str, fields: dict[str, Any]
) -> None:
    """A message that version 1 wrote means the same today."""
    message = kind()
    message.ParseFromString(bytes.fromhex(data))
    assert json_format.MessageToDict(message, preserving_proto_field_name=True) == fields


def test_every_bus_message_has_stored_bytes() -> None:
    """No message of the bus escapes this test; the parts of one are covered within it."""
    stored = {kind for kind, _, _ in WRITTEN}
    versioned = {
        kind
        for name, kind in vars(events_pb2).items()
        if isinstance(kind, type) and "version" in kind.DESCRIPTOR.fields_by_name
    }
    assert versioned == set(BUS_MESSAGES) <= stored


@pytest.mark.parametrize("kind", BUS_MESSAGES)
def test_a_newer_version_is_refused(kind: type[Any]) -> None:
    """A reader refuses what a later contract wrote, and what has no version at all."""
    for version in (0, messages.VERSION + 1):
        with pytest.raises(messages.UnreadableError):
            messages.decode(kind, kind(version=version).SerializeToString())
    assert messages.decode(kind, kind(version=messages.VERSION).SerializeToString()) == kind(
        version=messages.VERSION
    )


def test_unknown_fields_are_ignored() -> None:
    """A field that a later minor version added does not keep an old reader from the rest."""
    hello = events_pb2.Hello(version=1, gateway_id="g")
    later = hello.SerializeToString() + bytes.fromhex("fa06036e6577")
    assert messages.decode(events_pb2.Hello, later).gateway_id == "g"


def described() -> dict[str, dict[str, str]]:
    """Message or enum to its fields: number to name and type."""
    found: dict[str, dict[str, str]] = {}

    def visit(descriptor: Descriptor) -> None:
        found[descriptor.full_name] = {
            str(field.number): f"{field.name}: {kind_of(field)}" for field in descriptor.fields
        }
        for nested in descriptor.nested_types:
            visit(nested)

    for file in FILES:
        for message in file.DESCRIPTOR.message_types_by_name.values():
            visit(message)
        for enum in file.DESCRIPTOR.enum_types_by_name.values():
            found[enum.full_name] = {str(v.number): v.name for v in enum.values}
        for service in file.DESCRIPTOR.services_by_name.values():
            found[service.full_name] = {
                m.name: f"{m.input_type.full_name} -> {m.output_type.full_name}"
                for m in service.methods
            }
    return found


def kind_of(field: FieldDescriptor) -> str:
    """The field's type as the proto writes it."""
    target = field.message_type or field.enum_type
    base = target.full_name if target is not None else f"type {field.type}"
    prefix = "repeated " if field.is_repeated else "optional " if field.has_presence else ""
    return prefix + base


def test_fields_are_never_renumbered_or_removed() -> None:
    """Every field of the snapshot is still there, with its number, name and type.

    New fields are added to protos.json: python -m tests.contract.test_proto_compat
    """
    stored, now = json.loads(SNAPSHOT.read_text()), described()
    for message, fields in stored.items():
        for number, field in fields.items():
            assert now.get(message, {}).get(number) == field, f"{message} {number}"


def test_the_snapshot_is_complete() -> None:
    """A field that was added is held from now on."""
    assert json.loads(SNAPSHOT.read_text()) == described()


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(described(), indent=1, sort_keys=True) + "\n")
