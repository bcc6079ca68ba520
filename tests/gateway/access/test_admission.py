"""A permit says who may do what now, and gives back what it held."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Code, MeshError
from services.gateway.access.admission import Admission, estimated_tokens
from services.gateway.domain.generation import Defaults, GenerationRequest, Model, Sampling
from services.gateway.domain.request import (
    Conversation,
    InferenceRequest,
    Message,
    Options,
    Principal,
    Prompts,
)
from services.gateway.generation.dispatcher import Dispatcher
from services.gateway.generation.routing import Report

MODEL = Model("tiny", "r", 512, 256)
DEV = Principal("dev")


def queue(max_waiting: int = 4, max_tokens: int = 1000, *, room: int = 0) -> Dispatcher:
    dispatcher = Dispatcher(max_waiting, max_tokens)
    dispatcher.report(Report("r1", MODEL, room, 10_000, 0, False, frozenset()), 0.0)
    return dispatcher


def asked(*texts: str, **options: int | str | Sampling) -> InferenceRequest:
    given_options = Options(**{"model": "tiny", **options})  # type: ignore[arg-type]
    return InferenceRequest(Prompts(texts or ("Hi",)), given_options, 16)


def refusal(admission: Admission, principal: Principal, request: InferenceRequest) -> MeshError:
    with pytest.raises(MeshError) as caught:
        admission.admit(principal, request)
    return caught.value


def test_a_permit_holds_a_place_per_sequence() -> None:
    """Two prompts with three draws each are six places; after the block they are free."""
    places = queue(max_waiting=7)
    admission = Admission(places)
    with admission.admit(DEV, asked("a", "b", best_of=3)) as permit:
        assert permit.reservation.num_places == 6
        assert refusal(admission, DEV, asked(best_of=2)).code is Code.RESOURCE_EXHAUSTED
        with admission.admit(DEV, asked()):
            pass
    assert places.num_permits() == 0
    places.check()


def test_a_beam_search_is_one_sequence_of_its_width() -> None:
    """It takes one place and the tokens of all beams."""
    search = Sampling(max_tokens=10, beam_width=3)
    with Admission(queue()).admit(DEV, asked(best_of=3, sampling=search)) as permit:
        assert (permit.reservation.num_places, permit.reservation.num_tokens) == (1, 31)


def test_whatever_ends_the_block_gives_back() -> None:
    """An exception frees the places too."""
    places = queue()
    with pytest.raises(RuntimeError), Admission(places).admit(DEV, asked()):
        raise RuntimeError
    assert places.num_permits() == 0


def test_priority_and_model_come_before_the_queue() -> None:
    """A full queue does not hide what would be refused anyway."""
    admission = Admission(queue(max_waiting=0))
    assert refusal(admission, DEV, asked(priority=-1)).code is Code.PERMISSION_DENIED
    assert refusal(admission, DEV, asked(model="other")).code is Code.NOT_FOUND
    assert refusal(Admission(Dispatcher(4, 1000)), DEV, asked()).code is Code.UNAVAILABLE
    assert refusal(admission, DEV, asked()).retry_after_s == 1.0


def test_a_corrected_count_is_what_is_held() -> None:
    """The estimate goes once the tokens are known; beyond the bound they are refused."""
    admission = Admission(queue(max_tokens=100))
    counted = GenerationRequest(MODEL, (1,) * 50, Sampling(30))
    with admission.admit(DEV, asked()) as permit:
        permit.correct([counted])
        assert permit.reservation.num_tokens == 80
        with admission.admit(DEV, asked()) as other, pytest.raises(MeshError) as caught:
            other.correct([counted])
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("sampling", "model", "answer"),
    [
        (Sampling(5), MODEL, 5),
        (Sampling(), MODEL, 16),
        (Sampling(), Model("tiny", "r", 512, 256, (), Defaults(max_tokens=9)), 9),
        (Sampling(10_000), MODEL, 509),
    ],
)
def test_the_answer_counts_with_the_prompt(sampling: Sampling, model: Model, answer: int) -> None:
    """The request's own length, else the model's, else the endpoint's; never past the context."""
    request = asked("four bytes", sampling=sampling)
    assert estimated_tokens(request, model) == [3 + answer]


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_messages_are_counted_in_bytes(texts: list[str]) -> None:
    """A conversation is one prompt of all its bytes, at four to a token."""
    messages = tuple(Message("user", text) for text in texts)
    request = InferenceRequest(Conversation(messages), Options(model="tiny"), 1)
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    assert estimated_tokens(request, MODEL) == [1 + num_bytes // 4 + 1]
