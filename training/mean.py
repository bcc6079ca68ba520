"""The mean of two exported models' weights, which is often better than either of a run's ends.

python -m training.mean ONE OTHER --out FOLDER     (Wortsman et al., 2022, arXiv:2203.05482)
"""

import argparse
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def mean(one: Path, other: Path, out: Path) -> None:
    """Write the mean into `out`; all but the weights are those of `other`."""
    first, second = (load_file(folder / "model.safetensors") for folder in (one, other))
    weights = {
        name: ((first[name].float() + second[name].float()) / 2).to(second[name].dtype)
        for name in second
    }
    shutil.copytree(other, out, dirs_exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser("training.mean", description=__doc__)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    mean(options.one, options.other, options.out)


if __name__ == "__main__":
    main()
