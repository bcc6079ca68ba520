from mesh.pb import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Announcement(_message.Message):
    __slots__ = ("version", "replica_id", "model", "room_sequences", "room_tokens", "running", "waiting", "draining", "job_ids", "expected_wait_s")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ROOM_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    ROOM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    version: int
    replica_id: str
    model: _common_pb2.ModelInfo
    room_sequences: int
    room_tokens: int
    running: int
    waiting: int
    draining: bool
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    expected_wait_s: float
    def __init__(self, version: _Optional[int] = ..., replica_id: _Optional[str] = ..., model: _Optional[_Union[_common_pb2.ModelInfo, _Mapping]] = ..., room_sequences: _Optional[int] = ..., room_tokens: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., draining: _Optional[bool] = ..., job_ids: _Optional[_Iterable[str]] = ..., expected_wait_s: _Optional[float] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "gateway_id")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    version: int
    gateway_id: str
    def __init__(self, version: _Optional[int] = ..., gateway_id: _Optional[str] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("version", "gateway_id", "job", "cancel", "resend")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RESEND_FIELD_NUMBER: _ClassVar[int]
    version: int
    gateway_id: str
    job: Job
    cancel: Cancel
    resend: Resend
    def __init__(self, version: _Optional[int] = ..., gateway_id: _Optional[str] = ..., job: _Optional[_Union[Job, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., resend: _Optional[_Union[Resend, _Mapping]] = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "prompt_token_ids", "sampling", "deadline_unix_ms", "model_revision", "tenant", "cache_salt", "priority")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CACHE_SALT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    prompt_token_ids: _containers.RepeatedScalarFieldContainer[int]
    sampling: _common_pb2.SamplingParams
    deadline_unix_ms: int
    model_revision: str
    tenant: str
    cache_salt: str
    priority: int
    def __init__(self, job_id: _Optional[str] = ..., prompt_token_ids: _Optional[_Iterable[int]] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ..., deadline_unix_ms: _Optional[int] = ..., model_revision: _Optional[str] = ..., tenant: _Optional[str] = ..., cache_salt: _Optional[str] = ..., priority: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("job_id", "stopped")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    stopped: bool
    def __init__(self, job_id: _Optional[str] = ..., stopped: _Optional[bool] = ...) -> None: ...

class Resend(_message.Message):
    __slots__ = ("first", "last")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first: int
    last: int
    def __init__(self, first: _Optional[int] = ..., last: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("version", "replica_id", "number", "deltas", "oldest")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    version: int
    replica_id: str
    number: int
    deltas: _containers.RepeatedCompositeFieldContainer[SequenceDelta]
    oldest: int
    def __init__(self, version: _Optional[int] = ..., replica_id: _Optional[str] = ..., number: _Optional[int] = ..., deltas: _Optional[_Iterable[_Union[SequenceDelta, _Mapping]]] = ..., oldest: _Optional[int] = ...) -> None: ...

class SequenceDelta(_message.Message):
    __slots__ = ("job_id", "token_ids", "finish_reason", "usage", "timings", "logprobs", "prompt_logprobs", "expected_wait_s", "other_beams", "start")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_S_FIELD_NUMBER: _ClassVar[int]
    OTHER_BEAMS_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    finish_reason: _common_pb2.FinishReason
    usage: _common_pb2.Usage
    timings: _common_pb2.Timings
    logprobs: _containers.RepeatedCompositeFieldContainer[_common_pb2.TokenLogprobs]
    prompt_logprobs: _containers.RepeatedCompositeFieldContainer[_common_pb2.TokenLogprobs]
    expected_wait_s: float
    other_beams: _containers.RepeatedCompositeFieldContainer[_common_pb2.Beam]
    start: _common_pb2.Start
    def __init__(self, job_id: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., finish_reason: _Optional[_Union[_common_pb2.FinishReason, str]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., timings: _Optional[_Union[_common_pb2.Timings, _Mapping]] = ..., logprobs: _Optional[_Iterable[_Union[_common_pb2.TokenLogprobs, _Mapping]]] = ..., prompt_logprobs: _Optional[_Iterable[_Union[_common_pb2.TokenLogprobs, _Mapping]]] = ..., expected_wait_s: _Optional[float] = ..., other_beams: _Optional[_Iterable[_Union[_common_pb2.Beam, _Mapping]]] = ..., start: _Optional[_Union[_common_pb2.Start, _Mapping]] = ...) -> None: ...

class IngestTask(_message.Message):
    __slots__ = ("version", "ingestion_id", "document_id", "collection", "source", "media_type")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INGESTION_ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    version: int
    ingestion_id: str
    document_id: str
    collection: str
    source: str
    media_type: str
    def __init__(self, version: _Optional[int] = ..., ingestion_id: _Optional[str] = ..., document_id: _Optional[str] = ..., collection: _Optional[str] = ..., source: _Optional[str] = ..., media_type: _Optional[str] = ...) -> None: ...
