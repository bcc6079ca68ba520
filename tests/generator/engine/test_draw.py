"""Which of the tokens drawn after drafts hold."""

from collections.abc import Callable

import pytest

from services.generator.engine.chunk import Chunk
from services.generator.engine.draw import kept_tokens
from services.generator.engine.request import Request


@pytest.mark.parametrize(
    ("drafts", "drawn", "kept"),
    [
        ((), [5], (5,)),
        ((1, 2), [1, 2, 3], (1, 2, 3)),
        ((1, 2), [1, 7, 3], (1, 7)),
        ((1, 2), [7, 2, 3], (7,)),
        ((1, 2), [1, None, 3], (1,)),
        ((1, 2), [7, None, None], (7,)),
        ((1, 2), [None, 2, 3], ()),
    ],
)
def test_tokens_hold_up_to_the_first_that_is_not_its_draft(
    drafts: tuple[int, ...], drawn: list[int | None], kept: tuple[int, ...]
) -> None:
    """The first other token is the last that holds; a row without a token ends them before it."""
    assert kept_tokens(drafts, drawn) == kept


def test_a_draw_counts_the_drafts_before_it(make_request: Callable[..., Request]) -> None:
    """Each row of a chunk with drafts draws one place further in the output."""
    request = make_request([1, 2, 3])
    request.token_ids += [4, 5]
    chunk = Chunk(request, 4, 3, (6, 7))
    assert [draw.output_index for draw in chunk.draws] == [2, 3, 4]
    assert [draw.drafts for draw in chunk.draws] == [(), (6,), (6, 7)]
    assert list(chunk.token_ids) == [5, 6, 7]
    assert chunk.num_pairs == 5 + 6 + 7
    assert Chunk(request, 0, 4).draws == []
