"""The tables of docs/results/main_job.md, from folders that tools/main_job_camvid.sh wrote.

python tools/main_job_table.py OUT [OUT ...]
"""

import json
import sys
from pathlib import Path

ARMS = (
    "first",
    "random-128",
    "random-128-again",
    "entropy-128",
    "coreset-128",
    "uwe-128",
    "uwe-512",
)
RARE = ("Pole", "SignSymbol", "Fence", "Pedestrian", "Bicyclist")


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def main() -> None:
    runs = [Path(argument) for argument in sys.argv[1:]]
    print("| labelled | bought | " + " | ".join(f"mIoU {run.name}" for run in runs), end="")
    print(" | mean | rare classes | accuracy |")
    print("|---|---|" + "---|" * (len(runs) + 3))
    for arm in ARMS:
        tests = [load(run / f"model-{arm}" / "metrics.json")["test"] for run in runs]
        mious = [100 * test["miou"] for test in tests]
        rare = [100 * sum(test["iou"][name] for name in RARE) / len(RARE) for test in tests]
        accuracy = [100 * test["accuracy"] for test in tests]
        folder = "seed-set" if arm == "first" else f"select-{arm}"
        costs = [load(run / folder / "summary.json")["cost"] for run in runs]
        cost = ", ".join(f"{c['regions']} ({100 * c['share_of_pool']:.2f} %)" for c in costs)
        name = "5 % random regions" if arm == "first" else f"and 5 % by {arm}"
        print(f"| {name} | {cost} | " + " | ".join(f"{m:.2f}" for m in mious), end="")
        print(f" | {mean(mious):.2f} | {mean(rare):.2f} | {mean(accuracy):.2f} |")
    print("\n| step | seconds | peak memory (MiB) |\n|---|---|---|")
    for arm in ARMS:
        training = [load(run / f"model-{arm}" / "metrics.json") for run in runs]
        seconds = [t["seconds"]["train"] for t in training]
        peak = [t["peak_memory_bytes"]["host"] / 2**20 for t in training]
        print(f"| train {arm} | {mean(seconds):.0f} | {mean(peak):.0f} |")
    for arm in ARMS[1:]:
        summaries = [load(run / f"select-{arm}" / "summary.json") for run in runs]
        for stage in ("scan-0", "select", "overlays"):
            seconds = [s["seconds"][stage] for s in summaries]
            peak = [s["peak_memory_bytes"]["host"] / 2**20 for s in summaries]
            print(f"| {arm}: {stage} | {mean(seconds):.3f} | {mean(peak):.0f} |")
    print("\n" + load(runs[0] / "model-first" / "metrics.json")["machine"])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
