"""The training run: schedule, checkpoints, progress and exports at milestones.

There is one process per core, each on its own share of a batch, and gradients are averaged once a
step. Two threads in one process would wait for each other at every operation, which costs little
on an idle machine and half the speed on a busy one.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from training import tokenizer as tokens
from training.batches import REPLY_WEIGHT, Batch, Stream
from training.evaluate import Model, held_out, summary
from training.export import export
from training.model import Shape, TinyLlama
from training.muon import optimisers

RUNS = Path(__file__).with_name("runs")
RESTART = 0.2


@dataclass(frozen=True)
class Plan:
    """What a run does. Progress is measured in minutes, or in tokens when those are given."""

    seed: int = 1
    minutes: float = 100.0
    tokens: int = 0
    rows: int = 24
    length: int = 512
    long_length: int = 1024
    long_from: float = 0.92
    matrix_lr: float = 0.012
    other_lr: float = 0.0024
    warmup: float = 0.01
    decay_from: float = 0.35
    export_every: float = 420.0
    probes: int = 150
    out: Path = Path("models/infermesh-tiny")
    run: Path = RUNS / "main"
    start: Path | None = None
    processes: int = 2


def rate(progress: float, plan: Plan) -> float:
    """Warm up, hold, then decay linearly to nothing (Hu et al., 2024, the stable-decay form).

    A run that starts from trained weights takes a fifth of the rate, falling at once: at half of it
    the weights forgot a sixth of the right spans within four million tokens.
    """
    if progress < plan.warmup:
        return max(progress, 1e-4) / plan.warmup * (RESTART if plan.start else 1.0)
    if plan.start:
        return RESTART * max(0.0, (1.0 - progress) / (1.0 - plan.warmup))
    if progress < plan.decay_from:
        return 1.0
    return max(0.0, (1.0 - progress) / (1.0 - plan.decay_from))


class Run:
    """One process of a training run that can stop and go on; rank 0 speaks and writes."""

    def __init__(self, plan: Plan, resume: bool, rank: int = 0) -> None:
        self.plan = plan
        self.rank = rank
        torch.manual_seed(plan.seed)
        self.tokenizer = Tokenizer.from_file(str(plan.run / "tokenizer.json"))
        self.model = TinyLlama(Shape(vocab=self.tokenizer.get_vocab_size()))
        self.optimisers = optimisers(self.model, plan.matrix_lr, plan.other_lr)
        self.batch_number, self.seen, self.spent = 0, 0, 0.0
        self.checkpoint = plan.run / "checkpoint.pt"
        if resume and self.checkpoint.exists():
            self._load()
        elif plan.start:
            self.model.load_state_dict(load_file(plan.start / "model.safetensors"))

    def _load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            decays = [group.get("decay") for group in optimiser.param_groups]
            optimiser.load_state_dict(saved)
            for group, decay in zip(optimiser.param_groups, decays, strict=True):
                group["decay"] = decay
        self.batch_number, self.seen, self.spent = state["batch"], state["seen"], state["spent"]
        self._say(f"resumed at batch {self.batch_number}, {self.seen / 1e6:.2f}M tokens")

    def _say(self, line: str) -> None:
        if self.rank == 0:
            print(line, flush=True)

    def save(self) -> None:
        """Write the checkpoint in place of the last one."""
        state = {
            "model": self.model.state_dict(),
            "batch": self.batch_number,
            "seen": self.seen,
            "spent": self.spent,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        fresh = self.checkpoint.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self.checkpoint)

    @property
    def progress(self) -> float:
        """How much of the run is done, from 0 to 1."""
        if self.plan.tokens:
            return self.seen / self.plan.tokens
        return self.spent / (self.plan.minutes * 60)

    def train(self) -> None:
        """Run to the end, in short rows and then in long ones."""
        plan = self.plan
        rows = plan.rows // plan.processes
        self._stage(plan.length, rows, plan.long_from)
        self._stage(plan.long_length, rows * plan.length // plan.long_length, 1.0)
        if self.rank == 0:
            self.save()
            export(self.model, self.tokenizer, plan.out)

    def _stage(self, length: int, rows: int, until: float) -> None:
        if self.progress >= until:
            return
        plan = self.plan
        stream = Stream(
            self.tokenizer,
            plan.seed,
            self.batch_number * plan.processes + self.rank,
            plan.processes,
            rows,
            length,
        )
        step = torch.compile(self.model, dynamic=False)
        started, exported, losses = time.monotonic(), time.monotonic(), 0.0
        try:
            while self.progress < until:
                losses += self._step(step, stream.next(), time.monotonic() - started)
                started = time.monotonic()
                if self.batch_number % 20 == 0:
                    self._report(losses / 20)
                    losses = 0.0
                    if self._agreed(time.monotonic() - exported) > plan.export_every:
                        self._milestone()
                        started = exported = time.monotonic()
        finally:
            stream.close()

    def _agreed(self, number: float) -> float:
        """Rank 0's `number`, in every process, so that all of them branch alike."""
        shared = torch.tensor([number], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)

    def _step(self, step: Callable[..., Tensor], batch: Batch, waited: float) -> float:
        started = time.monotonic()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            each = step(batch.tokens, batch.documents, batch.picks, batch.targets)
        loss = (each * batch.weights).sum() / batch.weights.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        self._average()
        scale = rate(self.progress, self.plan)
        for optimiser, lr in zip(
            self.optimisers, (self.plan.matrix_lr, self.plan.other_lr), strict=True
        ):
            for group in optimiser.param_groups:
                group["lr"] = lr * scale
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        self.batch_number += 1
        self.seen += batch.tokens.numel() * self.plan.processes
        self.spent += self._agreed(waited + time.monotonic() - started)
        return float(each.detach()[batch.weights >= REPLY_WEIGHT].mean())

    def _average(self) -> None:
        """Replace every gradient by its mean over the processes."""
        gradients = [w.grad for w in self.model.parameters() if w.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.plan.processes
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _report(self, loss: float) -> None:
        speed = self.seen / max(self.spent, 1e-9)
        self._say(
            f"{self.progress:6.1%}  batch {self.batch_number:5d}  "
            f"{self.seen / 1e6:6.2f}M tokens  answer loss {loss:.4f}  "
            f"{speed:6.0f} tokens/s  {self.spent / 60:5.1f} min"
        )

    def _milestone(self) -> None:
        """Save, export and ask a few held-out questions; its time does not count."""
        if self.rank == 0:
            self.save()
            export(self.model, self.tokenizer, self.plan.out)
            torch.set_num_threads(self.plan.processes)
            verdicts = Model(self.plan.out).judge(held_out(11, self.plan.probes))
            torch.set_num_threads(1)
            line = "  ".join(f"{name} {value:.3f}" for name, value in summary(verdicts).items())
            self._say(f"exported at {self.seen / 1e6:.2f}M tokens: {line}")
        dist.barrier()


def run(plan: Plan, resume: bool) -> None:
    """Trains in `plan.processes` processes and returns when they are done."""
    plan.run.mkdir(parents=True, exist_ok=True)
    path = plan.run / "tokenizer.json"
    if plan.start and not resume:
        path.write_bytes((plan.start / "tokenizer.json").read_bytes())
    elif not (resume and path.exists()):
        print("tokenizer: learning", flush=True)
        tokens.train(plan.seed).save(str(path))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = "1"
    spawn(_process, (plan, resume), nprocs=plan.processes)  # type: ignore[no-untyped-call]


def _process(rank: int, plan: Plan, resume: bool) -> None:
    torch.set_num_threads(1)
    meeting = plan.run.resolve() / f"meeting-{os.getppid()}"
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=plan.processes
    )
    Run(plan, resume, rank).train()
    dist.destroy_process_group()
    meeting.unlink(missing_ok=True)
