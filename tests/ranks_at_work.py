"""What ranks do in tests/integration/test_ranks.py: `python -m tests.ranks_at_work FOLDER`."""

import atexit
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from segal.system.ranks import Ranks, all_ranks
from segal.training.loop import train
from tests.unit.test_train import BOXES, Dataset, Killed, kill_at, make_model, settings

UNEVEN = {**BOXES, 1: [(0, 0, 3, 3)], 2: [(5, 5, 36, 24)]}
CASES = {
    "frozen": {"batchnorm": "frozen", "batch_size": 5, "class_weights": "0.2,3,1", "norm": False},
    "pieces": {"batch_size": 6, "accumulate": 3, "validate_every": 4, "grad_clip": 1.0},
    "adamw": {"batch_size": 4, "accumulate": 2, "optimizer": "adamw", "lr": 1e-3,
              "precision": "bf16"},
}  # fmt: skip
"""Settings of trainings."""


def run(case: str, ranks: Ranks, **options):
    """The result and the weights of one of them."""
    chosen = {"checkpoint_every": 3, **CASES[case]}
    model = make_model(norm=chosen.pop("norm", True))
    validation = Dataset(seed=9, count=3) if "validate_every" in chosen else None
    arguments = {"seed": 1, "labelled": UNEVEN, "validation": validation, "ranks": ranks}
    result = train(model, Dataset(), settings(**chosen), **arguments | options)
    return result, {k: v.clone() for k, v in model.network.state_dict().items()}


def gloo_threads() -> int:
    """How many threads of this process are gloo's (Linux)."""
    names = [file.read_text() for file in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)


def work(folder: Path) -> None:
    """All of them, and one that is killed after 8 of 12 steps.

    How many threads of gloo there are is written down, too: at work, and at the very end.
    """
    torch.set_num_threads(1)
    told = []
    atexit.register(lambda: told[0].write_text(f"{told[1]} {gloo_threads()}"))
    ranks = all_ranks()
    told += [folder / f"threads-{ranks.rank}", gloo_threads()]
    for case in CASES:
        result, weights = run(case, ranks)
        said = {"loss": repr(result.loss), "validations": repr(result.validations)}
        save_file(weights, folder / f"{case}-{ranks.rank}.safetensors", said)
    try:
        run("pieces", ranks, checkpoint=folder / "killed.safetensors", progress=kill_at(8))
    except Killed:
        ranks.wait()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
