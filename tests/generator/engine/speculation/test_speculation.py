"""How many drafts are tried: what they bring, what they cost, and what is allowed."""

from collections.abc import Callable

import pytest

from services.generator.engine.request import Request
from services.generator.engine.sampling_params import SamplingParams
from services.generator.engine.speculation.speculation import Speculation

MakeRequest = Callable[..., Request]
# a row costs a tenth of a step's fixed time
ROW_S = 0.001
PARAMS = SamplingParams(max_tokens=1000)
REPEATING = [1, 2, 3, 4, 5, 6, 7, 8] * 3


def speculation(row_s: float = ROW_S, max_drafts: int = 7) -> Speculation:
    """Make a policy that knows what steps cost: 10 ms, and so much for each row."""
    policy = Speculation(max_drafts)
    for num_rows in (1, 10_000):
        policy.observe_step(num_rows, 0.010 + row_s * num_rows)
    return policy


def propose(policy: Speculation, request: Request, num_tokens: int = 100) -> tuple[int, ...]:
    """Return one lone decode's drafts."""
    return policy.propose([request], num_tokens).get(request, ())


def verify(policy: Speculation, request: Request, num_accepted: int) -> int:
    """Let so many drafts of one step be right, all that there are at most; return their number."""
    drafts = propose(policy, request)
    if drafts:
        policy.observe(request, len(drafts), min(num_accepted, len(drafts)))
    return len(drafts)


def test_drafts_continue_the_text(make_request: MakeRequest) -> None:
    """What followed before is tried, and nothing where nothing is known."""
    policy = speculation()
    assert propose(policy, make_request(REPEATING, params=PARAMS)) == (1, 2, 3, 4, 5, 6)
    assert propose(policy, make_request(range(20), params=PARAMS)) == ()


def test_nothing_is_tried_before_a_step_was_timed(make_request: MakeRequest) -> None:
    """Without a cost there is nothing to compare with."""
    policy = Speculation(7)
    assert propose(policy, make_request(REPEATING, params=PARAMS)) == ()


def test_right_guesses_lengthen_the_runs_and_wrong_ones_end_them(
    make_request: MakeRequest,
) -> None:
    """A request whose drafts are drawn gets the most; one whose drafts never are, hardly any."""
    policy = speculation()
    copying, inventing = [make_request(REPEATING, params=PARAMS) for _ in range(2)]
    assert [verify(policy, copying, 7) for _ in range(10)][-1] == 7
    assert sum([verify(policy, inventing, 0) for _ in range(40)][20:]) < 10


def test_a_request_that_failed_tries_again_after_some_tokens(make_request: MakeRequest) -> None:
    """It seldom tries, but never gives up, and is back at full length soon after it is right."""
    policy = speculation(0.003)
    request = make_request(REPEATING, params=PARAMS)
    sizes = [verify(policy, request, 0) for _ in range(600)]
    assert 0 < sum(size > 0 for size in sizes[100:]) < 50
    assert max(sizes[100:]) == 1
    while not propose(policy, request):
        pass
    sizes = [verify(policy, request, 7) for _ in range(200)]
    assert sizes[-1] == 7


def test_new_requests_profit_from_what_others_saw(make_request: MakeRequest) -> None:
    """Where guesses are mostly wrong, a new request does not have to find out by itself."""
    policy = speculation()
    sizes = []
    for _ in range(50):
        request = make_request(REPEATING, params=PARAMS)
        sizes.append(sum(verify(policy, request, 0) for _ in range(5)))
    assert sizes[0] >= 8
    assert sum(sizes[25:]) / 25 < 3


@pytest.mark.parametrize(("num_decodes", "is_tried"), [(1, True), (4, True), (64, False)])
def test_load_switches_it_off(make_request: MakeRequest, num_decodes: int, is_tried: bool) -> None:
    """Where a step's time goes with its rows, even likely guesses cost more than they bring."""
    policy = speculation()
    requests = [make_request(REPEATING, params=PARAMS) for _ in range(num_decodes)]
    drafts = policy.propose(requests, 1000)
    assert bool(drafts) is is_tried
    # no text is indexed in vain
    assert bool(policy._records) is is_tried


def test_the_budget_is_shared_and_kept(make_request: MakeRequest) -> None:
    """All drafts together stay within the tokens and the seconds that are left."""
    requests = [make_request(REPEATING, params=PARAMS) for _ in range(2)]
    drafts = speculation().propose(requests, 3)
    assert [len(token_ids) for token_ids in drafts.values()] == [3]
    drafts = speculation().propose(requests, 100, 0.0049)
    assert sum(map(len, drafts.values())) == 4
    assert speculation().propose(requests, 100, -1.0) == {}


def test_nothing_is_guessed_past_the_end(make_request: MakeRequest) -> None:
    """A request's last token is drawn by the last row, so it needs no draft."""
    request = make_request(REPEATING, params=SamplingParams(max_tokens=3))
    assert len(propose(speculation(), request)) == 2
    request.token_ids += [1, 2]
    assert propose(speculation(), request) == ()


def test_what_is_counted(make_request: MakeRequest) -> None:
    """The totals count runs, tokens, and which places were right."""
    policy = speculation(max_drafts=4)
    request = make_request(REPEATING, params=PARAMS)
    propose(policy, request)
    policy.observe(request, 3, 2)
    policy.observe(request, 4, 0)
    assert (policy.num_drafts, policy.num_draft_tokens, policy.num_accepted_tokens) == (2, 7, 2)
    assert policy.num_accepted_tokens_per_pos == [1, 1, 0, 0]


def test_requests_that_end_are_forgotten(make_request: MakeRequest) -> None:
    """Dropping frees the index, once or twice."""
    policy = speculation()
    request = make_request(REPEATING, params=PARAMS)
    propose(policy, request)
    with pytest.raises(AssertionError):
        policy.check([])
    policy.drop(request)
    policy.drop(request)
    policy.check([])


def test_zero_turns_it_off(make_request: MakeRequest) -> None:
    """Without room for drafts nothing is looked at."""
    policy = speculation(max_drafts=0)
    assert not policy.is_on
    assert propose(policy, make_request(REPEATING, params=PARAMS)) == ()
