"""Writes figures.json and the model card, whose table is made from those figures."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from training.evaluate import Model, figures
from training.train import Plan

TITLES = {
    "right_span": "right span",
    "right_span_four_passages": "right span, four passages",
    "right_citation": "right citation, and no other",
    "unanswerable_seen": "unanswerable, seen as such",
    "false_refusals": "answerable, but refused",
    "questions": "questions",
}
COLUMNS = {
    "held_out_names": "unseen names",
    "held_out_templates": "unseen templates",
    "free_questions": "free questions",
}
SAMPLES = (
    ("", "Hello! Who are you?"),
    ("", "Tell me something about rivers."),
    ("", "Tell me a short story."),
)


@dataclass(frozen=True)
class Record:
    """How the weights came about."""

    command: str
    seed: int
    tokens: int
    minutes: float
    machine: str


def record(plan: Plan) -> Record:
    """Return the record of the run whose checkpoint is here, or else the one beside the weights."""
    checkpoint = plan.run / "checkpoint.pt"
    if not checkpoint.exists():
        return Record(**json.loads((plan.out / "figures.json").read_text())["run"])
    state = torch.load(checkpoint, weights_only=True)
    minutes = round(state["spent"] / 60, 1)
    return Record(command(plan), plan.seed, state["seen"], minutes, machine())


def write(plan: Plan) -> None:
    """Evaluate the exported model, print its figures and write them beside the weights."""
    run, found = record(plan), figures(plan.out)
    content = {"run": asdict(run), "figures": found}
    (plan.out / "figures.json").write_text(json.dumps(content, indent=2) + "\n")
    print(table(found))
    text = Path(__file__).with_name("card.md").read_text()
    for mark, filling in fillings(run, plan.out, found).items():
        text = text.replace(f"{{{{{mark}}}}}", filling)
    (plan.out / "README.md").write_text(text)


def command(plan: Plan) -> str:
    """Return the command that trains the model."""
    length = f"--tokens {plan.tokens}" if plan.tokens else f"--minutes {plan.minutes:g}"
    start = f" --start {plan.start}" if plan.start else ""
    return f"python -m training{start} {length} --seed {plan.seed}"


def machine() -> str:
    """Return the processor that this runs on, and how many of it."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{os.cpu_count()} cores of {name}"


def fillings(run: Record, folder: Path, found: dict[str, dict[str, float]]) -> dict[str, str]:
    """Return what the card says, by the marks of card.md."""
    weights = (folder / "model.safetensors").stat().st_size
    return {
        "command": run.command,
        "tokens": f"{run.tokens / 1e6:.1f} million",
        "minutes": f"{run.minutes:.0f}",
        "machine": run.machine,
        "seed": str(run.seed),
        "parameters": f"{weights / 2e6:.1f} million",
        "size": f"{sum(path.stat().st_size for path in folder.iterdir()) / 1e6:.0f} MB",
        "table": table(found),
        "samples": samples(folder),
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """Return the figures as a Markdown table."""
    columns = [name for name in COLUMNS if name in found]
    lines = [
        "| | " + " | ".join(COLUMNS[name] for name in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for key, title in TITLES.items():
        cells = [shown(key, found[name]) for name in columns]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def shown(key: str, column: dict[str, float]) -> str:
    """One cell: a count, a percentage, or a dash where there was nothing to count."""
    value = column[key]
    if key == "questions":
        return f"{value:.0f}"
    empty = column["questions"] == column["answerable"]
    return "-" if key == "unanswerable_seen" and empty else f"{value:.1%}"


def samples(folder: Path) -> str:
    """Return a few greedy replies, as they came."""
    chats = [
        [
            *([{"role": "system", "content": system}] if system else []),
            {"role": "user", "content": question},
        ]
        for system, question in SAMPLES
    ]
    replies = Model(folder).reply(chats, limit=100)
    return "\n".join(
        f"> **{question}** {reply}\n" for (_, question), reply in zip(SAMPLES, replies, strict=True)
    )
