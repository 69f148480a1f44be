"""The tables of docs/results/gradient_scores.md, from the folder of a comparison.

    python tools/gradient_table.py OUT

OUT holds runs/ARM/seed-N, as `segal compare --config configs/camvid_gradients.yaml` writes them.
"""

# ruff: noqa: PLC0415 (torch reads its thread settings when first imported)

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segal.candidates.table import CandidateTable
    from segal.runs.history import History

    Floats = NDArray[np.float64]
    Wrong = dict[str, NDArray[np.int8]]

BASELINE = "random"


def wrong_pixels(run: Path) -> Wrong:
    """By image of the pool: 1 where the first network is wrong, 0 where right, -1 where void."""
    import numpy as np
    import yaml

    from segal.config import RunConfig
    from segal.jobs.network import open_split
    from segal.models.checkpoint import load_checkpoint
    from segal.system.console import bar
    from segal.tasks.segmentation.task import Segmentation

    config = RunConfig(**yaml.safe_load((run / "config.yaml").read_text()))
    with bar("Checking images") as advance:
        dataset = open_split(config.data, config.data.train, config.machine, advance)
    model = load_checkpoint(run / "rounds" / "000" / "model.safetensors")
    found: Wrong = {}
    with bar("Comparing with the labels") as advance:
        for index, predicted, target in Segmentation().predictions(
            model, dataset, progress=advance
        ):
            wrong = (predicted != target).numpy().astype(np.int8)
            wrong[target.numpy() == 255] = -1
            found[dataset.pool.paths[index]] = wrong
    return found


def share_of_mistakes(wrong: Wrong, regions: list[tuple[str, tuple[int, int, int, int]]]) -> float:
    """Share of wrong pixels among the labelled ones of regions."""
    bad = known = 0
    for image, (x0, y0, x1, y1) in regions:
        part = wrong[image][y0:y1, x0:x1]
        bad += int((part == 1).sum())
        known += int((part >= 0).sum())
    return bad / known if known else float("nan")


def mistakes_by_candidate(wrong: Wrong, table: CandidateTable) -> Floats:
    """The same of every candidate; NaN where all of one is void."""
    import numpy as np

    boxes = [tuple(map(int, box)) for box in table.box.tolist()]
    return np.array(
        [
            share_of_mistakes(wrong, [(table.images[image], box)])  # type: ignore[list-item]
            for image, box in zip(table.image, boxes, strict=True)
        ]
    )


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation where both are known."""
    import numpy as np
    from scipy.stats import spearmanr

    known = np.isfinite(a) & np.isfinite(b)
    return float(spearmanr(a[known], b[known]).statistic)


def value_columns(run: Path, region: str) -> dict[str, Floats]:
    """Every value of every candidate, of the last pass that measured it."""
    from segal.candidates.table import CandidateTable

    found: dict[str, Floats] = {}
    for folder in sorted((run / "rounds" / "000").glob("candidates*")):
        found |= CandidateTable.open(folder / region).values
    return found


def print_results(histories: dict[str, dict[int, History]], wrong: dict[int, Wrong]) -> None:
    """MIoU, mistakes and seconds by arm."""
    import numpy as np

    seeds = sorted(wrong)
    first = {s: histories[BASELINE][s].scores[0] for s in seeds}
    print("| strategy | " + " | ".join(f"mIoU, seed {s}" for s in seeds), end="")
    print(" | mean | - random | mistakes | scan, s | select, s |")
    print("|---|" + "---|" * (len(seeds) + 5))
    print("| first network | " + " | ".join(f"{100 * first[s]:.2f}" for s in seeds), end="")
    print(f" | {100 * np.mean(list(first.values())):.2f} | | | | |")
    base = np.mean([histories[BASELINE][s].scores[-1] for s in seeds])
    for arm, runs in histories.items():
        scores = [runs[s].scores[-1] if s in runs else float("nan") for s in seeds]
        mean = np.mean(scores)
        mistakes, scan, select = [], [], []
        for s, run in runs.items():
            before = run.rounds[0]
            mistakes.append(share_of_mistakes(wrong[s], [(p.image, p.box) for p in before.bought]))
            scan.append(sum(v for k, v in before.seconds.items() if k.startswith("scan")))
            select.append(before.seconds["select"])
        shown = " | ".join(f"{100 * score:.2f}" for score in scores)
        print(f"| {arm} | {shown} | {100 * mean:.2f} | {100 * (mean - base):+.2f} | ", end="")
        print(f"{100 * np.mean(mistakes):.1f} % | {np.mean(scan):.0f} | {np.mean(select):.1f} |")


def print_correlations(out: Path, histories: dict[str, dict[int, History]], wrong: Wrong) -> None:
    """Rank correlations between the scores of seed 0, and with the share of wrong pixels."""
    from segal.candidates.table import CandidateTable

    columns: dict[str, Floats] = {}
    region = str(histories[BASELINE][0].configuration["region"])
    for arm in histories:
        columns |= value_columns(out / "runs" / arm / "seed-0", region)
    folder = out / "runs" / BASELINE / "seed-0" / "rounds" / "000" / "candidates" / region
    columns["share of wrong pixels"] = mistakes_by_candidate(wrong, CandidateTable.open(folder))
    names = list(columns)
    print("\n| | " + " | ".join(map(str, range(1, len(names) + 1))) + " |")
    print("|---|" + "---|" * len(names))
    for number, name in enumerate(names, 1):
        row = [f"{spearman(columns[name], columns[other]):+.2f}" for other in names]
        print(f"| {number}. {name} | " + " | ".join(row) + " |")


def main() -> None:
    """Prints the tables."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from segal.runs.history import read_history

    out = Path(sys.argv[1])
    arms = sorted(
        (p for p in (out / "runs").iterdir() if (p / "seed-0" / "summary.json").exists()),
        key=lambda p: (not p.name.startswith("random"), p.name),
    )
    histories = {
        arm.name: {
            int(run.name.removeprefix("seed-")): read_history(run)
            for run in sorted(arm.glob("seed-*"))
            if (run / "summary.json").exists()
        }
        for arm in arms
    }
    wrong = {seed: wrong_pixels(history.folder) for seed, history in histories[BASELINE].items()}
    print_results(histories, wrong)
    print_correlations(out, histories, wrong[0])


if __name__ == "__main__":
    main()
