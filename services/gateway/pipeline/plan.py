"""What will run for one request: runs of the generator, and the choices that come of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby

from services.gateway.domain.documents import Passage
from services.gateway.domain.generation import Answer, GenerationRequest, Model, Reservation, Usage
from services.gateway.domain.request import Options
from services.gateway.pipeline.request_memo import MemoKey
from services.gateway.pipeline.response_cache import Outcome


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence of text of a run; `index` counts all of the plan, `prompt` its prompts.

    `echo` is the text of the prompt where the answer repeats it.
    """

    index: int
    prompt: int
    request: GenerationRequest
    echo: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the generator; a beam search brings several choices, best first."""

    request: GenerationRequest
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A request ready to run, or the cached answer to its only choice.

    Of each prompt's choices the `num_answered` best are answered. `store` keeps the answer of the
    only run, for `key` to find. `passages` are those in the prompt, in its order; None where none
    were asked for. Each choice's text begins with `answer_start`. `reservation` has the places of
    the runs in the generator's queue. With `prompt_only` what is drawn is not told.
    """

    runs: tuple[Run, ...]
    num_answered: int
    outcome: Outcome
    store: bool = False
    cached: Answer | None = None
    passages: tuple[Passage, ...] | None = None
    answer_start: str = ""
    key: MemoKey | None = None
    reservation: Reservation | None = None
    prompt_only: bool = False

    @property
    def model(self) -> Model:
        """The model of all runs."""
        return self.runs[0].request.model

    @property
    def choices(self) -> list[Choice]:
        """All choices in the order of their indices."""
        return list(chain.from_iterable(run.choices for run in self.runs))

    def total(self, usages: Mapping[int, Usage]) -> Usage:
        """Return the counts of the request by its choices' counts; a prompt counts once."""
        prompts = [usages[choices[0].index] for choices in self._by_prompt()]
        return Usage(
            prompt_tokens=sum(usage.prompt_tokens for usage in prompts),
            completion_tokens=sum(usage.completion_tokens for usage in usages.values()),
            cached_prompt_tokens=sum(usage.cached_prompt_tokens for usage in prompts),
        )

    def answered(self, scores: Sequence[float]) -> list[int]:
        """Return the indices of the choices to answer: of each prompt the best by score first.

        Where all are answered they keep their order.
        """
        kept: list[int] = []
        for choices in self._by_prompt():
            indices = [choice.index for choice in choices]
            if len(indices) > self.num_answered:
                indices.sort(key=lambda index: -scores[index])
            kept += indices[: self.num_answered]
        return kept

    def _by_prompt(self) -> Iterator[list[Choice]]:
        for _, choices in groupby(self.choices, key=lambda choice: choice.prompt):
            yield list(choices)


def plan_runs(
    requests: Sequence[GenerationRequest], options: Options, echoes: Sequence[str] = ()
) -> tuple[Run, ...]:
    """Return the runs that continue each prompt's request, as often as `options` says.

    Seeded draws count on from the seed, so that they differ.
    """
    runs: list[Run] = []
    index = 0
    for prompt, request in enumerate(requests):
        echo = echoes[prompt] if echoes else None
        for draw in range(options.runs_per_prompt):
            drawn = _with_seed(request, draw)
            indices = range(index, index + drawn.sampling.n)
            runs.append(Run(drawn, tuple(Choice(i, prompt, drawn, echo) for i in indices)))
            index = indices.stop
    return tuple(runs)


def _with_seed(request: GenerationRequest, draw: int) -> GenerationRequest:
    seed = request.sampling.seed
    if seed is None or draw == 0:
        return request
    return replace(request, sampling=replace(request.sampling, seed=(seed + draw) % 2**64))
