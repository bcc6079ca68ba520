"""Writes figures.json and the model card, whose table is made from those figures."""

import json
import os
import platform
from pathlib import Path

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


def write(plan: Plan, seen: int, spent: float) -> None:
    """Evaluates the exported model, prints its figures and writes them beside the weights."""
    found = figures(plan.out)
    run = {
        "command": command(plan),
        "seed": plan.seed,
        "tokens": seen,
        "minutes": round(spent / 60, 1),
        "machine": machine(),
    }
    record = {"run": run, "figures": found}
    (plan.out / "figures.json").write_text(json.dumps(record, indent=2) + "\n")
    print(table(found))
    text = Path(__file__).with_name("card.md").read_text()
    for mark, filling in fillings(plan, seen, spent).items():
        text = text.replace(f"{{{{{mark}}}}}", filling)
    text = text.replace("{{table}}", table(found)).replace("{{samples}}", samples(plan.out))
    (plan.out / "README.md").write_text(text)


def command(plan: Plan) -> str:
    """The command that trains the model."""
    length = f"--tokens {plan.tokens}" if plan.tokens else f"--minutes {plan.minutes:g}"
    return f"python -m training {length} --seed {plan.seed}"


def machine() -> str:
    """The processor that this runs on, and how many of it."""
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


def fillings(plan: Plan, seen: int, spent: float) -> dict[str, str]:
    """What the card says of the run and of the files."""
    weights = (plan.out / "model.safetensors").stat().st_size
    return {
        "command": command(plan),
        "tokens": f"{seen / 1e6:.1f} million",
        "minutes": f"{spent / 60:.0f}",
        "machine": machine(),
        "seed": str(plan.seed),
        "parameters": f"{weights / 2e6:.1f} million",
        "size": f"{sum(f.stat().st_size for f in plan.out.iterdir()) / 1e6:.1f} MB",
    }


def table(found: dict[str, dict[str, float]]) -> str:
    """The figures as a Markdown table."""
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
    """A few greedy replies, as they came."""
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
