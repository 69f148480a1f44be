"""The tables of docs/results/evidence.md, from the folders of its comparisons.

    python tools/evidence_table.py MAIN SEEDS VAL VAL9 --csv docs/results/evidence_runs.csv
    python tools/evidence_table.py docs/results/evidence_runs.csv

Given are folders of `segal compare` with configs/camvid_evidence*.yaml, finished or at work, and
files that `--csv` wrote of them: every round of every run, with the IoU of each class. Seeds count
where both arms of a contrast have all rounds. The contrasts were written down before
the first run. Each is the mean over seeds of the difference between two curves' mean heights over
the range of cost that both cover, with a 95 % interval (Student's t), an exact sign-flip test, and
Holm's correction within its family.
"""

# ruff: noqa: PLC0415 (torch reads its thread settings when first imported)

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RARE = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")
"""Classes of less than 2 % of the pool's labelled pixels."""


@dataclass(frozen=True)
class Contrast:
    """One arm against another.

    Attributes:
        arm: Whose curve is expected to be higher.
        against: The other.
        axis: `share` of the pool's pixels, in per cent, or `clicks`.
        classes: Whose mean IoU is compared; empty for all.
        extra: What is added to the first arm's cost, in per cent of the pool's pixels: labels of
            its reference set.
        first: Whether the first networks are compared, not the curves.
    """

    arm: str
    against: str
    axis: str = "share"
    classes: tuple[str, ...] = ()
    extra: float = 0.0
    first: bool = False


def against_random(*arms: str, **options: object) -> list[Contrast]:
    """Each against random regions."""
    return [Contrast(arm, "random", **options) for arm in arms]  # type: ignore[arg-type]


FAMILIES: dict[str, list[Contrast]] = {
    "noise": against_random("random-again"),
    "a: strategies": [
        *against_random("uwe", "uwe-tau-0", "uwe-tau-0.1", "uwe-tau-10", "entropy", "coreset"),
        Contrast("uwe", "entropy"),
        Contrast("uwe", "coreset"),
    ],
    "b: regions against images": [
        Contrast(arm, f"{arm}-image", axis)
        for arm in ("random", "uwe")
        for axis in ("share", "clicks")
    ],
    "c: error change": [
        *against_random("error_change-val"),
        *against_random("error_change-val9", extra=9 / 367 * 100),
    ],
    "e: seed sets, the first network": [
        Contrast(f"seeds-{name}", "seeds-random", first=True)
        for name in ("typiclust", "max_herding", "prob_cover", "coreset")
    ],
    "e: seed sets, then random regions": [
        Contrast(f"seeds-{name}", "seeds-random")
        for name in ("typiclust", "max_herding", "prob_cover", "coreset")
    ],
    "f: rare classes": against_random(
        "pixbal", "clasp", "random-foreground", "uwe", "entropy", classes=RARE
    ),
    "f: all classes": against_random("pixbal", "clasp", "random-foreground"),
    "g: another encoder, noise": [Contrast("lite0-random-again", "lite0-random")],
    "g: another encoder": [
        *(Contrast(f"lite0-{name}", "lite0-random") for name in ("uwe", "entropy", "coreset")),
        Contrast("lite0-uwe", "lite0-entropy"),
        Contrast("lite0-uwe", "lite0-coreset"),
        *(Contrast("lite0-uwe", "lite0-uwe-image", axis) for axis in ("share", "clicks")),
    ],
    "h: fine-tuned": [
        Contrast("tuned-uwe", "tuned-uwe-image"),
        Contrast("tuned-uwe-tau-10", "tuned-random"),
        Contrast("tuned-uwe", "tuned-random"),
    ],
}


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run: of each round what it cost, and the IoU of each class."""

    share: Floats
    clicks: Floats
    iou: Floats
    names: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, rounds: int) -> Run | None:
        """None where not all rounds are there."""
        import numpy as np

        from segal.functional.metrics import iou
        from segal.runs.history import read_history

        if not (folder / "ledger.sqlite").exists():
            return None
        history = read_history(folder)
        if len(history.rounds) < rounds:
            return None
        matrices = [one.evaluation().confusions.sum(0, dtype=np.int64) for one in history.rounds]  # type: ignore[attr-defined]
        return cls(
            np.array([100 * one.share for one in history.rounds]),
            np.array([one.cost.clicks for one in history.rounds], np.float64),
            np.stack([iou(matrix) for matrix in matrices]),
            tuple(history.class_names),
        )

    def scores(self, classes: tuple[str, ...]) -> Floats:
        """(rounds,) mean IoU in per cent, of classes that are there."""
        import numpy as np

        kept = [i for i, name in enumerate(self.names) if not classes or name in classes]
        mean: Floats = 100 * np.nanmean(self.iou[:, kept], axis=1)
        return mean


def heights(contrast: Contrast, one: Run, other: Run) -> tuple[float, float]:
    """Mean heights of both curves over the costs that both cover."""
    import numpy as np

    from segal.functional.curves import area

    scores = one.scores(contrast.classes), other.scores(contrast.classes)
    if contrast.first:
        return float(scores[0][0]), float(scores[1][0])
    costs = [getattr(run, contrast.axis) for run in (one, other)]
    costs[0] = costs[0] + contrast.extra
    low, high = max(c[0] for c in costs), min(c[-1] for c in costs)
    found = []
    for cost, score in zip(costs, scores, strict=True):
        at = np.concatenate([[low], cost[(cost > low) & (cost < high)], [high]])
        found.append(area(at, np.interp(at, cost, score)) / (high - low))
    return found[0], found[1]


def measure(contrast: Contrast, runs: dict[str, dict[int, Run]]) -> dict[str, object] | None:
    """The contrast over the seeds that both arms have; None for fewer than two."""
    import numpy as np
    from scipy import stats

    from segal.functional.significance import sign_flip

    ones, others = runs.get(contrast.arm, {}), runs.get(contrast.against, {})
    seeds = sorted(ones.keys() & others.keys())
    if len(seeds) < 2:
        return None
    pairs = np.array([heights(contrast, ones[seed], others[seed]) for seed in seeds])
    difference = pairs[:, 0] - pairs[:, 1]
    error = difference.std(ddof=1) / np.sqrt(len(seeds))
    half = float(stats.t.ppf(0.975, len(seeds) - 1) * error)
    test = sign_flip(difference)
    return {
        **asdict(contrast),
        "seeds": len(seeds),
        "means": pairs.mean(0).tolist(),
        "difference": test.difference,
        "interval": [test.difference - half, test.difference + half],
        "sd": float(difference.std(ddof=1)),
        "higher": int((difference > 0).sum()),
        "p": test.p,
    }


def read_runs(paths: list[Path]) -> dict[str, dict[int, Run]]:
    """Finished runs by arm, with the name of its reference set if it has one, and seed."""
    import yaml

    found: dict[str, dict[int, Run]] = {}
    for folder in paths:
        if folder.is_file():
            for name, runs in read_csv(folder).items():
                found.setdefault(name, {}).update(runs)
            continue
        config = yaml.safe_load((folder / "compare.yaml").read_text(encoding="utf-8"))
        rounds = 1 + len(config["run"]["budgets"])
        validation = config["run"]["data"].get("validation")
        for arm in config["arms"]:
            name = f"{arm['name']}-{validation}" if validation else arm["name"]
            for path in sorted((folder / "runs" / arm["name"]).glob("seed-*")):
                run = Run.read(path, rounds)
                if run is not None:
                    found.setdefault(name, {})[int(path.name.removeprefix("seed-"))] = run
    return found


_COLUMNS = ("arm", "seed", "round", "share", "clicks")


def read_csv(path: Path) -> dict[str, dict[int, Run]]:
    """What `write_csv` wrote."""
    import numpy as np

    with path.open(newline="", encoding="utf-8") as file:
        names, *rows = list(csv.reader(file))
    classes = tuple(names[len(_COLUMNS) :])
    rounds: dict[str, dict[int, list[list[float]]]] = {}
    for arm, seed, _, *numbers in rows:
        each = rounds.setdefault(arm, {}).setdefault(int(seed), [])
        each.append([float(number or "nan") for number in numbers])
    return {
        arm: {
            seed: Run(of[:, 0], of[:, 1], of[:, 2:], classes)
            for seed, of in ((seed, np.array(each)) for seed, each in seeds.items())
        }
        for arm, seeds in rounds.items()
    }


def write_csv(path: Path, runs: dict[str, dict[int, Run]]) -> None:
    """A row for each round: its cost, and the IoU of each class, empty where it has none."""
    (names,) = {run.names for seeds in runs.values() for run in seeds.values()}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *names])
        for arm, seeds in runs.items():
            for seed, run in sorted(seeds.items()):
                for number, (share, clicks, iou) in enumerate(
                    zip(run.share, run.clicks, run.iou, strict=True)
                ):
                    values = ("" if math.isnan(value) else f"{value:.8f}" for value in iou)
                    writer.writerow([arm, seed, number, f"{share:.8f}", f"{clicks:.0f}", *values])


def print_curves(runs: dict[str, dict[int, Run]]) -> None:
    """Mean mIoU by round, of every arm."""
    import numpy as np

    print("\n## Curves (mean mIoU in per cent, sd over seeds at the last)\n")
    for arm, each in runs.items():
        scores = np.stack([run.scores(()) for run in each.values()])
        clicks = np.mean([run.clicks[-1] for run in each.values()])
        rare = np.mean([run.scores(RARE)[-1] for run in each.values()])
        means = " | ".join(f"{value:.2f}" for value in scores.mean(0))
        spread = scores[:, -1].std(ddof=1) if len(scores) > 1 else float("nan")
        print(f"| {arm} | {len(each)} | {means} ± {spread:.2f} | {rare:.2f} | {clicks:,.0f} |")


def title(row: dict[str, object]) -> str:
    """A contrast in words."""
    beside = "" if row["axis"] == "share" else f", at equal {row['axis']}"
    return f"{row['arm']} - {row['against']}{beside}"


def draw(numbers: dict[str, list[dict[str, object]]], path: Path) -> None:
    """Every contrast with its interval; filled where it is significant after Holm's correction."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from segal.pictures.sheet import steady_style

    sizes = [len(rows) + 1.6 for rows in numbers.values()]
    with steady_style():
        figure = Figure((9.0, 0.23 * sum(sizes) + 0.6), dpi=96, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(sizes), 1, sharex=True, squeeze=False, height_ratios=sizes)
        for axes, (family, rows) in zip(panels[:, 0], numbers.items(), strict=True):
            axes.axvline(0, color="#30343a", lw=0.8)
            for place, row in enumerate(rows):
                low, high = row["interval"]  # type: ignore[misc]
                clear = float(row["holm"]) < 0.05  # type: ignore[arg-type]
                colour = "#0072b2" if clear else "#8a9199"
                axes.plot([low, high], [place, place], color=colour, lw=2)
                inside = colour if clear else "white"
                axes.plot(row["difference"], place, "o", color=colour, mfc=inside)
            axes.set_yticks(range(len(rows)), [title(row) for row in rows])
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.set_title(family, loc="left", fontsize=11, color="#30343a")
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x", color="#dfe2e6", lw=0.8)
            axes.set_axisbelow(True)
            axes.spines[["top", "right", "left"]].set_visible(False)
        panels[-1, 0].set_xlabel("difference in points of mIoU, 95 % interval over seeds")
        figure.savefig(path, metadata={"Software": "segal"})


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "runs", nargs="+", type=Path, help="folders of segal compare, or files that --csv wrote"
    )
    parser.add_argument("--csv", type=Path, help="where to write every round of every run")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--chart", type=Path, help="where to draw the contrasts, as PNG")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from segal.functional.significance import holm

    runs = read_runs(arguments.runs)
    if arguments.csv is not None:
        write_csv(arguments.csv, runs)
    print_curves(runs)
    numbers: dict[str, list[dict[str, object]]] = {}
    for family, contrasts in FAMILIES.items():
        rows = [row for one in contrasts if (row := measure(one, runs)) is not None]
        if not rows:
            continue
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):  # type: ignore[misc]
            row["holm"] = float(adjusted)
        numbers[family] = rows
        print(f"\n## {family}\n")
        for row in rows:
            low, high = row["interval"]  # type: ignore[misc]
            print(
                f"| {title(row)} | {row['seeds']} "
                f"| {row['difference']:+.2f} ({low:+.2f} to {high:+.2f}) | {row['higher']} "
                f"| {row['p']:.4g} | {row['holm']:.4g} |"
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    if arguments.chart is not None:
        draw(numbers, arguments.chart)


if __name__ == "__main__":
    main()
