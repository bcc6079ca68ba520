"""One command: learns the tokenizer, trains, exports, evaluates and writes the model card."""

import argparse
import dataclasses
from pathlib import Path

from training.card import write
from training.train import Plan, run


def main() -> None:
    """Read the command line and run."""
    defaults = Plan()
    parser = argparse.ArgumentParser("training", description=__doc__)
    parser.add_argument("--minutes", type=float, default=defaults.minutes)
    parser.add_argument(
        "--tokens",
        type=int,
        default=defaults.tokens,
        help="stop after so many tokens, instead of after --minutes",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--out", type=Path, default=defaults.out)
    parser.add_argument("--run", type=Path, default=defaults.run, help="folder for checkpoints")
    parser.add_argument(
        "--start", type=Path, default=None, help="begin with the weights of an exported model"
    )
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--evaluate", action="store_true", help="do not train: figures and card")
    options = vars(parser.parse_args())
    resume, evaluate = options.pop("resume"), options.pop("evaluate")
    plan = dataclasses.replace(defaults, **options)
    if not evaluate:
        run(plan, resume)
    write(plan)


if __name__ == "__main__":
    main()
