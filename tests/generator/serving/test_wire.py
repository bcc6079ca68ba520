"""Between the engine's values and the protos."""

import dataclasses
import json
from pathlib import Path

import pytest

from mesh.errors import Code, MeshError
from mesh.pb import common_pb2
from services.generator.engine import FinishReason, RequestError, SamplingParams, StepOutput
from services.generator.engine.outputs import Beam, Start
from services.generator.serving import wire
from tests.generator.tiny import CONTEXT, EOS, VOCAB, load, write_checkpoint


def test_absent_fields_are_the_engines_defaults() -> None:
    """Only max_tokens must be set; temperature 0 is greedy, and no seed is no seed."""
    assert wire.sampling_params(common_pb2.SamplingParams(max_tokens=3)) == SamplingParams(
        max_tokens=3, temperature=0.0
    )


def test_contract_and_engine_name_the_same_fields() -> None:
    """A field that one of them gains is missing here until the other has it."""
    contract = {field.name for field in common_pb2.SamplingParams.DESCRIPTOR.fields}
    assert contract == {field.name for field in dataclasses.fields(SamplingParams)}


def test_all_fields_pass() -> None:
    """Each field of the message reaches the parameter of its name."""
    message = common_pb2.SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        seed=0,
        stop_token_ids=[4, 5],
        ignore_eos=True,
        min_p=0.125,
        typical_p=0.75,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=2.0,
        logit_bias={7: -1.0, 3: 100.0},
        allowed_token_ids=[1, 2],
        bad_token_ids=[2],
        logprobs=0,
        prompt_logprobs=20,
        n=3,
        include_stop_token=True,
    )
    assert wire.sampling_params(message) == SamplingParams(
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_k=3,
        top_p=0.25,
        min_p=0.125,
        typical_p=0.75,
        repetition_penalty=1.5,
        frequency_penalty=-0.5,
        presence_penalty=2.0,
        logit_bias=((3, 100.0), (7, -1.0)),
        allowed_token_ids=(1, 2),
        bad_token_ids=(2,),
        seed=0,
        stop_token_ids=(4, 5),
        ignore_eos=True,
        logprobs=0,
        prompt_logprobs=20,
        n=3,
        include_stop_token=True,
    )


@pytest.mark.parametrize(("sent", "meant"), [(None, 1.0), (0.0, 0.0), (2.0, 2.0)])
def test_a_beam_searchs_fields_pass(sent: float | None, meant: float) -> None:
    """An absent penalty is 1, which is not the same as 0."""
    message = common_pb2.SamplingParams(max_tokens=4, n=2, beam_width=3, length_penalty=sent)
    assert wire.sampling_params(message) == SamplingParams(
        max_tokens=4, temperature=0.0, n=2, beam_width=3, length_penalty=meant
    )


def test_the_other_beams_are_told() -> None:
    """Each with its tokens and its own reason."""
    beams = (Beam((4, 5), FinishReason.STOP), Beam((6,), FinishReason.LENGTH))
    output = StepOutput("a", (1,), FinishReason.STOP, 3, 2, 1, other_beams=beams)
    assert wire.other_beams(output) == [
        common_pb2.Beam(token_ids=[4, 5], finish_reason=common_pb2.FINISH_REASON_STOP),
        common_pb2.Beam(token_ids=[6], finish_reason=common_pb2.FINISH_REASON_LENGTH),
    ]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 10}, "min_tokens"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": -0.5}, "min_p"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"logprobs": 21}, "logprobs"),
        ({"beam_width": 1}, "beam_width"),
        ({"beam_width": 2, "n": 3}, "n"),
        ({"beam_width": 2, "top_k": 3}, "top_k"),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, float], field: str) -> None:
    """A refusal is INVALID_ARGUMENT with the field at fault, in its message too."""
    message = common_pb2.SamplingParams(**{"max_tokens": 4, **changes})
    with pytest.raises(MeshError) as refused:
        wire.sampling_params(message)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert refused.value.field == field
    assert field in refused.value.message


def test_a_refusal_names_the_field_of_the_proto() -> None:
    """The engine's `prompt` is `prompt_token_ids` on the wire."""
    error = wire.refused(RequestError("prompt", "must not be empty"))
    assert error.field == "prompt_token_ids"
    assert error.message == "prompt_token_ids: must not be empty"


@pytest.mark.parametrize("reason", [None, *FinishReason])
def test_every_reason_has_a_number(reason: FinishReason | None) -> None:
    """The engine's reasons and the proto's have the same names."""
    output = StepOutput("a", (), reason, 3, 2, 1)
    name = "UNSPECIFIED" if reason is None else reason.name
    number = wire.finish_reason(output)
    assert common_pb2.FinishReason.Name(number) == f"FINISH_REASON_{name}"


def test_counts_and_times() -> None:
    """Usage and timings carry the engine's figures."""
    output = StepOutput("a", (), FinishReason.STOP, 3, 2, 1, 0.5, 0.25, 4.0)
    assert wire.usage(output) == common_pb2.Usage(
        prompt_tokens=3, completion_tokens=2, cached_prompt_tokens=1
    )
    assert wire.timings(output) == common_pb2.Timings(queue_s=0.5, prefill_s=0.25, decode_s=4)


def test_the_start_is_told_once() -> None:
    """An output with a start carries it; later ones carry nothing."""
    first = StepOutput("a", (4,), None, 3, 1, 1, start=Start(1, 0.5, 0.25))
    assert wire.start(first) == common_pb2.Start(
        cached_prompt_tokens=1, queue_s=0.5, prefill_s=0.25
    )
    assert wire.start(StepOutput("a", (5,), None, 3, 2, 1)) is None


def test_what_a_replica_serves(checkpoint: Path) -> None:
    """The model's id is the folder's name unless it is given; its sizes are the config's."""
    info = wire.model_info(checkpoint, "", load(checkpoint))
    assert info.id == checkpoint.name
    assert (info.context_length, info.vocab_size) == (CONTEXT, VOCAB)
    assert list(info.eos_token_ids) == [EOS]
    assert wire.model_info(checkpoint, "named", load(checkpoint)).id == "named"
    assert info.default_sampling == common_pb2.SamplingParams(
        temperature=1, top_p=1, repetition_penalty=1
    )


def test_a_replica_tells_how_its_model_wants_to_be_sampled(tmp_path: Path) -> None:
    """The wishes of the checkpoint's generation_config.json are announced with the model."""
    folder = write_checkpoint(tmp_path)
    wishes = {"max_new_tokens": 9, "temperature": 0.5, "top_k": 20, "min_p": 0.25}
    (folder / "generation_config.json").write_text(json.dumps(wishes))
    assert wire.model_info(folder, "", load(folder)).default_sampling == common_pb2.SamplingParams(
        max_tokens=9, temperature=0.5, top_k=20, top_p=1, min_p=0.25, repetition_penalty=1
    )


def test_the_revision_changes_with_the_files(tmp_path: Path) -> None:
    """Weights, config and tokenizer count; notes beside them do not; the place does not."""
    first, second = write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b")
    base = wire.revision(first)
    assert wire.revision(second) == base
    (second / "README.md").write_text("words")
    assert wire.revision(second) == base
    (second / "tokenizer.json").write_text("{}")
    changed = wire.revision(second)
    assert changed != base
    weights = second / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert wire.revision(second) not in (base, changed)
