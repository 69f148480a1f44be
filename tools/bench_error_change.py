"""What error_change costs, and what its sample and its prefilter do to its ranking.

    python tools/bench_error_change.py DATA --checkpoint FILE --json error_change.json

The truth is S on every labelled pixel of the split `val`, one region of `train` at a time, as the
paper measures it but for the maps at the input of the last layers, which are kept. Against it:
samples of the holdout's pixels (rank correlation, seconds) and candidates computed only where the
prefilter's guide, or S_a, is largest (recall of the top tenth by S). Seconds are the processor's,
of one thread, so that a busy machine does not count. The truth is kept beside the JSON file, and
measured again only where it is missing.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from segal.candidates.evidence import Evidence
from segal.candidates.regions import RegionSize
from segal.data.datasets import open_dataset
from segal.data.image_sets import ImageSet
from segal.models.checkpoint import load_checkpoint
from segal.scanning.workbench import Bench, ScanSettings, forward
from segal.signals.error_change import HoldoutErrorChange, error_changes
from segal.signals.pixel_sample import SampleSize
from segal.signals.region_updates import RegionUpdates
from segal.system.machine import describe, peak_memory_bytes, use_threads
from segal.tasks.segmentation.task import Segmentation

SAMPLES = [SampleSize(n) for n in (500, 1000, 2000, 4000, 8000)]
PER_CLASS = [SampleSize(None, n) for n in (3, 10, 30, 100, 300)]
SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8)
REDUCTIONS = {"positive": 0, "all": 2}


class Candidates:
    """Regions of images spread evenly over a split, forwarded once."""

    def __init__(self, model, dataset, region: RegionSize, count: int, layers: str) -> None:
        self.boxes, self.evidence, left = [], list[Evidence](), count
        each = len(region.grid(*dataset.pool.size(0)))
        images = np.linspace(0, len(dataset) - 1, -(-count // each)).round().astype(int)
        for i in images:
            pixels = torch.from_numpy(dataset.pool.read(int(i)))[None]
            settings = ScanSettings(torch.device("cpu"))
            names = [dataset.pool.paths[i]]
            self.evidence.append(forward(Segmentation(), model, pixels, settings, (layers,), names))
            boxes = region.grid(*dataset.pool.size(int(i))).boxes()[:left].tolist()
            self.boxes.append(boxes)
            left -= len(boxes)
        self.regions = [region.grid(*dataset.pool.size(int(i))) for i in images]

    def __len__(self) -> int:
        return sum(map(len, self.boxes))

    def sums(self, updates: RegionUpdates, one_by_one: bool = False) -> np.ndarray:
        """(4, n) as `error_changes`."""
        found = []
        for evidence, boxes in zip(self.evidence, self.boxes, strict=True):
            groups = [[box] for box in boxes] if one_by_one else [boxes]
            found += [updates.sums(evidence, 0, group, error_changes) for group in groups]
        return torch.cat(found, 1).numpy()

    def measure(self, meter) -> torch.Tensor:
        """(n,) values of a signal."""
        with torch.no_grad():
            found = [
                meter.measure(e, grid)[0, : len(boxes)]
                for e, grid, boxes in zip(self.evidence, self.regions, self.boxes, strict=True)
            ]
        return torch.cat(found)


def score(sums: np.ndarray, reduce: str) -> np.ndarray:
    row = REDUCTIONS[reduce]
    return sums[row] / np.maximum(sums[row + 1], 1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a, b).statistic)


def recall(kept_by: np.ndarray, truth: np.ndarray, share: float) -> float:
    """Share of the top tenth by the truth that is among a share of the top by something else."""
    top = np.argsort(-truth)[: max(1, len(truth) // 10)]
    kept = np.argsort(-kept_by)[: int(np.ceil(share * len(truth)))]
    return float(np.isin(top, kept).mean())


def timed(work):
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def measure_truth(file: Path, make_updates, candidates: Candidates) -> dict:
    if not file.exists():
        updates, prepared = timed(lambda: make_updates(SampleSize(None)))
        sums, seconds = timed(lambda: candidates.sums(updates, one_by_one=True))
        np.savez(file, sums=sums, seconds=seconds, prepared=prepared)
    return dict(np.load(file))


def measure_samples(make_updates, candidates: Candidates, truth: np.ndarray, seeds: int) -> list:
    rows = []
    for size in SAMPLES + PER_CLASS:
        found = {"positive": [], "all": []}
        seconds, pixels = [], 0
        for seed in range(seeds):
            updates = make_updates(size, seed)
            pixels = sum(len(part.before) for part in updates.pixels)
            sums, spent = timed(lambda updates=updates: candidates.sums(updates))
            seconds.append(spent / len(candidates))
            for reduce, values in found.items():
                values.append(correlation(score(sums, reduce), score(truth, reduce)))
        row = {"sample": size.name, "pixels": pixels, "seconds_per_region": min(seconds)}
        rows.append(row | {f"rank_correlation_{k}": v for k, v in found.items()})
        print(row["sample"], {k: np.round(v, 4).tolist() for k, v in found.items()}, flush=True)
    return rows


def measure_prefilters(
    make_bench, candidates: Candidates, truth: np.ndarray, layers: str, seeds: int
) -> list:
    rows = []
    for reduce in REDUCTIONS:
        signal, exact = HoldoutErrorChange(layers, reduce=reduce), score(truth, reduce)
        by_first_order = replace(signal, reduce="all")  # whose guide is S_a
        for guided in dict.fromkeys([signal, by_first_order]):
            sampled = isinstance(guided.guide, HoldoutErrorChange)
            for seed in range(seeds if sampled else 1):
                bench = make_bench(seed)
                meter, prepared = timed(lambda g=guided, b=bench: g.guide.prepare(b))
                values, spent = timed(lambda m=meter: candidates.measure(m))
                guide = guided.guide_scores(values).numpy()
                row = {
                    "reduce": reduce,
                    "guide": guided.guide.column,
                    "seed": seed,
                    "seconds_to_prepare": prepared,
                    "seconds_per_region": spent / len(candidates),
                    "rank_correlation": correlation(guide, exact),
                    "recall": {share: recall(guide, exact, share) for share in SHARES},
                }
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--ignore-index", type=int)
    parser.add_argument("--region", default="128")
    parser.add_argument("--regions", type=int, default=108)
    parser.add_argument("--layers", default="last_two")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("error_change.json"))
    options = parser.parse_args()
    use_threads(1)
    model = load_checkpoint(options.checkpoint).eval()
    val, train = (
        open_dataset(options.data, split, ignore_index=options.ignore_index)
        for split in ("val", "train")
    )
    region = RegionSize.parse(options.region)
    candidates = Candidates(model, train, region, options.regions, options.layers)

    def make_bench(seed: int = 0) -> Bench:
        settings, sets = ScanSettings(torch.device("cpu")), {"val": ImageSet(val.pool, val)}
        return Bench(model, Segmentation(), settings, sets, seed, (region,))

    def make_updates(size: SampleSize, seed: int = 0) -> RegionUpdates:
        bench = make_bench(seed)
        return RegionUpdates.on(bench, "val", options.layers, size, 3, options.lr)

    truth_file = options.json.with_suffix(".npz")
    truth = measure_truth(truth_file, make_updates, candidates)
    result = {
        "machine": describe(torch.device("cpu")),
        "regions": len(candidates),
        "holdout_pixels": float(truth["sums"][3].max()),
        "exact_seconds_per_region": float(truth["seconds"]) / len(candidates),
        "share_of_pixels_that_rise": float(truth["sums"][1].mean() / truth["sums"][3].mean()),
        "rank_correlation_of_positive_and_all": correlation(
            score(truth["sums"], "positive"), score(truth["sums"], "all")
        ),
        "prefilters": measure_prefilters(
            make_bench, candidates, truth["sums"], options.layers, options.seeds
        ),
        "samples": measure_samples(make_updates, candidates, truth["sums"], options.seeds),
        "peak_bytes": peak_memory_bytes(torch.device("cpu"))["host"],
    }
    options.json.write_text(json.dumps(result, indent=1))
    print_table(result)


def print_table(result: dict) -> None:
    exact = result["exact_seconds_per_region"]
    print(f"\n{result['machine']}; {result['regions']} regions, one thread")
    print(f"exact, one region at a time: {exact:.2f} s a region")
    print("\n| sample | pixels | s a region | times faster | rank corr. positive | all |")
    print("|---|---|---|---|---|---|")
    for row in result["samples"]:
        seconds = row["seconds_per_region"]
        mean = [np.mean(row[f"rank_correlation_{reduce}"]) for reduce in REDUCTIONS]
        print(
            f"| {row['sample']} | {row['pixels']} | {seconds:.3f} | {exact / seconds:.0f} "
            f"| {mean[0]:.4f} | {mean[1]:.4f} |"
        )
    print(
        "\n| prefilter by | seed | s a region | rank corr. | " + " | ".join(map(str, SHARES)), "|"
    )
    print("|---|" + "---|" * (3 + len(SHARES)))
    for row in result["prefilters"]:
        recalls = " | ".join(f"{row['recall'][share]:.1f}" for share in SHARES)
        print(f"| {row['reduce']}: {row['guide']} | {row['seed']} ", end="")
        print(f"| {row['seconds_per_region']:.3f} | {row['rank_correlation']:.4f} | {recalls} |")


if __name__ == "__main__":
    main()
