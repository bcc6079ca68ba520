"""The training model is the Llama that transformers loads, and packing changes nothing."""

import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from training.batches import CITED_WEIGHT, FOUND_WEIGHT, REPLY_WEIGHT, Packer
from training.export import settings
from training.model import Shape, TinyLlama
from training.muon import Muon, orthogonal
from training.tokenizer import render_chat
from training.train import Plan, rate

FOLDER = Path(__file__).parents[2] / "models" / "infermesh-tiny"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """The shipped tokenizer."""
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


def twins(tokenizer: Tokenizer) -> tuple[TinyLlama, LlamaForCausalLM]:
    """A small training model and its Hugging Face counterpart with the same weights."""
    torch.manual_seed(3)
    shape = Shape(
        vocab=tokenizer.get_vocab_size(),
        width=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=32,
        hidden=96,
    )
    ours = TinyLlama(shape)
    theirs = LlamaForCausalLM(LlamaConfig.from_dict(settings(shape, tokenizer)["config.json"]))
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.tie_weights()
    theirs.train(False)
    return ours, theirs


def test_loss_is_that_of_transformers(tokenizer: Tokenizer) -> None:
    """Packed rows give each document the loss it has alone in LlamaForCausalLM."""
    ours, theirs = twins(tokenizer)
    batch = Packer(tokenizer, 5).batch(0, 2, 256)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        packed = ours(batch.tokens, batch.documents, batch.picks, batch.targets)
    for index in random.Random(0).sample(range(len(batch.picks)), 12):
        if batch.weights[index] == 0:
            continue
        row, at = divmod(int(batch.picks[index]), 256)
        marks = batch.documents[row]
        start = int((marks == marks[at]).nonzero()[0])
        with torch.no_grad():
            logits = theirs(batch.tokens[row : row + 1, start : at + 1]).logits[0, -1]
        alone = torch.nn.functional.cross_entropy(logits, batch.targets[index])
        assert abs(float(alone) - float(packed[index])) < 0.05 * float(alone) + 0.02


def test_loss_is_taken_on_replies(tokenizer: Tokenizer) -> None:
    """Full weight lies exactly on the tokens after an assistant token, up to the end token."""
    batch = Packer(tokenizer, 5).batch(1, 4, 256)
    end, assistant = (tokenizer.token_to_id(t) for t in ("<|end|>", "<|assistant|>"))
    flat = batch.tokens.flatten()
    for pick in batch.picks[batch.weights >= REPLY_WEIGHT].tolist():
        at = pick
        while flat[at] not in (assistant, end):
            at -= 1
        assert flat[at] == assistant


def test_what_must_be_found_weighs_most(tokenizer: Tokenizer) -> None:
    """Span and citation weigh more than what a reply repeats from its question."""
    packer = Packer(tokenizer, 5)
    text = render_chat("[1] Ann sold 7 pears.", [("Who sold pears?", "Ann sold pears [1].")])
    ids = tokenizer.encode(text).ids
    weights = dict(
        zip([tokenizer.decode([token]) for token in ids[1:]], packer.weigh(ids), strict=True)
    )
    assert weights["1"] == CITED_WEIGHT
    after = text.index("<|assistant|>")
    start = len(tokenizer.encode(text[:after]).ids)
    reply = [tokenizer.decode([token]) for token in ids[start + 1 :]]
    found = packer.weigh(ids)[start:]
    assert found[0] == FOUND_WEIGHT
    assert found[reply.index(" sold")] == REPLY_WEIGHT


def test_batches_depend_on_seed_and_number_only(tokenizer: Tokenizer) -> None:
    """A batch can be made again, so a run can be resumed."""
    one, again = (Packer(tokenizer, 7).batch(4, 2, 256) for _ in range(2))
    other = Packer(tokenizer, 7).batch(5, 2, 256)
    assert torch.equal(one.tokens, again.tokens) and torch.equal(one.picks, again.picks)
    assert not torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_newton_schulz_flattens_the_spectrum(shape: tuple[int, int]) -> None:
    """All singular values of an orthogonalised matrix are near one."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(2, *shape)).float())
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3


def test_muon_goes_downhill() -> None:
    """Muon lowers a least-squares loss."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 8))
    goal = torch.randn(8, 8)
    optimiser = Muon([weight], lr=0.05)
    first = float((weight - goal).detach().pow(2).mean())
    for _ in range(60):
        (weight - goal).pow(2).mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
    assert float((weight - goal).detach().pow(2).mean()) < first / 4


def test_rate_warms_up_holds_and_ends_at_nothing() -> None:
    """The learning rate has its three parts."""
    plan = Plan()
    assert rate(0.0, plan) < 0.02
    assert rate(plan.warmup, plan) == rate(plan.decay_from - 1e-6, plan) == 1.0
    assert rate(1.0, plan) == 0.0
    assert 0 < rate(0.9, plan) < rate(0.8, plan) < 1
