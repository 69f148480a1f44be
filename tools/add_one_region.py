"""Measure what adding single regions to the labels really does, and hold scores to it.

    python tools/add_one_region.py --run RUN --scores RUN ... --regions 40 --out add_one.json

RUN is the folder of a `segal run` with a validation split; its first network and first scan are
used, and further runs give the scores of other strategies on the same network. The network goes on
training for a few steps on batches of its labelled regions, once as it is and once for each region
with that region's loss added to every step at the weight of one more crop of a batch, with its true
labels or with the network's own (--labels predicted); BatchNorm stays frozen. The effect of a
region is what it changes in the mean cross-entropy on the validation split, against the training
with the same batches and without it. Several seeds draw several sequences of batches: the spread of
a region's effect between them is the noise. Regions are taken evenly along the ranking by the first
column. Finished regions are not measured again when the command is given again. Columns named
directional-... are inner products with a gradient: minus them is the predicted change, so a score
that works has a negative correlation with the effect.
"""

# ruff: noqa: PLC0415 (torch reads its thread settings when first imported)

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from segal.data.datasets import LabelledDataset
    from segal.tasks.segmentation.model import SegmentationModel

Batch = tuple["Tensor", "Tensor"]


def mean_loss(model: SegmentationModel, dataset: LabelledDataset, every: int) -> float:
    """Mean cross-entropy over the labelled pixels of every so manieth image, in nats."""
    import torch
    import torch.nn.functional as F

    total, count = 0.0, 0
    model.eval()
    for index in range(0, len(dataset), every):
        image = torch.from_numpy(dataset.pool.read(index))[None]
        target = torch.from_numpy(dataset.read_label(index))[None].long()
        with torch.inference_mode():
            logits = model(model.normalise(image)).logits
        total += float(F.cross_entropy(logits, target, ignore_index=255, reduction="sum"))
        count += int((target != 255).sum())
    return total / count


class Experiment:
    """The run, and what is trained on."""

    def __init__(self, run: Path, steps: int, lr: float, every: int) -> None:
        import yaml

        from segal.candidates.regions import RegionSize
        from segal.config import RunConfig
        from segal.data.transforms import TrainingTransform
        from segal.jobs.rounds.run_data import RunData
        from segal.models.checkpoint import load_checkpoint
        from segal.runs.ledger import Ledger
        from segal.runs.oracle import Oracle
        from segal.tasks import find_task
        from segal.training.sampling import LabelledRegions, Samples

        config = RunConfig(**yaml.safe_load((run / "config.yaml").read_text()))
        data = RunData.open(config)
        self.pool_set, self.validation = data.pool_set, data.held_out["validation"]
        self.steps, self.lr, self.size = steps, lr, config.train.batch_size
        self.every = every
        with Ledger.read(run) as ledger:
            bought: dict[str, list[Any]] = {}
            for purchase in ledger.purchases("seed", 0):
                bought.setdefault(purchase.image, []).append(purchase.box)
        oracle = Oracle(data.pool_set, find_task(config.task))
        crop = RegionSize.parse(config.train.crop)
        assert crop.height is not None
        assert crop.width is not None
        transform = TrainingTransform((crop.height, crop.width), config.train.scale, 0.5, 0.2)
        regions = LabelledRegions.of(data.pool_set, oracle.by_index(bought))
        revealed = oracle.reveal(bought)
        self.samples = partial(Samples, revealed, regions, transform)
        self.model = load_checkpoint(run / "rounds" / "000" / "model.safetensors").eval()
        self.region = config.region

    def batches(self, seed: int) -> list[Batch]:
        """The batches that every training of a seed goes through."""
        from segal.data.transforms import stack_padded

        samples = self.samples(seed)
        numbers = range(self.steps * self.size)
        return [
            stack_padded([samples(n) for n in numbers[start : start + self.size]])
            for start in range(0, len(numbers), self.size)
        ]

    def region_batch(self, image: int, box: list[int], labels: str) -> Batch:
        """A whole image with the labels of one region: the true ones, or the network's own."""
        import numpy as np
        import torch

        from segal.data.transforms import keep_regions

        x0, y0, x1, y1 = box
        pixels = torch.from_numpy(self.pool_set.pool.read(image))[None]
        label = self.pool_set.read_label(image)
        if labels == "predicted":
            with torch.inference_mode():
                logits = self.model(self.model.normalise(pixels)).logits
            label = logits.argmax(1)[0].numpy().astype(np.uint8)
        kept = keep_regions(label, [(x0, y0, x1, y1)])
        return pixels, torch.from_numpy(kept)[None]

    def train(self, batches: list[Batch], added: Batch | None) -> float:
        """Trains on, and returns the loss on the validation split."""
        import torch

        from segal.tasks.segmentation.task import Segmentation

        task, model = Segmentation(), copy.deepcopy(self.model).eval()
        optimizer = torch.optim.SGD(model.parameters(), self.lr, momentum=0.9)
        for images, labels in batches:
            optimizer.zero_grad()
            loss = task.training_loss(model, model.normalise(images), labels)
            if added is not None:
                extra = task.training_loss(model, model.normalise(added[0]), added[1])
                loss = loss + extra / self.size
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return mean_loss(model, self.validation, self.every)


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[float]:
    """Spearman's, and its p-value."""
    from scipy.stats import spearmanr

    found = spearmanr(a, b)
    return [float(found.statistic), float(found.pvalue)]


def chosen_rows(scores: NDArray[np.float64], count: int, free: NDArray[np.int64]) -> list[int]:
    """Rows evenly along the ranking."""
    import numpy as np

    order = free[np.argsort(scores[free], kind="stable")]
    return [
        int(order[place]) for place in np.linspace(0, len(order) - 1, count).round().astype(int)
    ]


def summarise(effects: NDArray[np.float64], scores: dict[str, NDArray[np.float64]]) -> None:
    """Prints the noise and the correlations of (regions, seeds) effects."""
    mean = effects.mean(1)
    print(f"effect on the loss: {mean.mean():+.2e} on average, {mean.std():.1e} between regions")
    if effects.shape[1] > 1:
        noise = effects.std(1, ddof=1).mean()
        print(f"noise between seeds: {noise:.1e}; seed 1 against seed 2: rank correlation "
              f"{rank_correlation(effects[:, 0], effects[:, 1])[0]:.3f}")  # fmt: skip
    for column, values in scores.items():
        rho, p = rank_correlation(values, mean)
        print(f"{column}: rank correlation with the effect {rho:+.3f} (p = {p:.2g})")


def read_arguments() -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--scores", type=Path, nargs="*", default=[])
    parser.add_argument("--regions", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="validate on every so manieth image")
    parser.add_argument("--labels", choices=["true", "predicted"], default="true")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    """Measures and prints."""
    arguments = read_arguments()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import numpy as np

    from segal.candidates.table import CandidateTable
    from segal.system.files import write_json

    experiment = Experiment(arguments.run, arguments.steps, arguments.lr, arguments.every)
    tables = arguments.run / "rounds" / "000" / "candidates"
    table = CandidateTable.open(tables / experiment.region)
    values = dict(sorted(table.values.items(), key=lambda item: item[0] == "entropy"))
    for other in arguments.scores:
        folder = other / "rounds" / "000" / "candidates" / experiment.region
        values |= CandidateTable.open(folder).values
    columns = list(values)  # the strategy's own first
    # Whole images are labelled at the start: their regions are not candidates.
    taken = {table.images[i] for i in CandidateTable.open(tables / "labelled").image}
    free = np.flatnonzero([table.images[i] not in taken for i in table.image])
    rows = chosen_rows(values[columns[0]], arguments.regions, free)
    positions = {path: i for i, path in enumerate(experiment.pool_set.pool.paths)}
    done: dict[str, float] = {}
    settings = {key: getattr(arguments, key) for key in ("steps", "lr", "every", "labels")}
    if arguments.out.exists():
        before = json.loads(arguments.out.read_text())
        if before["settings"] != settings:
            sys.exit(f"{arguments.out} was measured with {before['settings']}")
        done = before["losses"]
    for seed in range(arguments.seeds):
        batches = experiment.batches(seed)
        for row in [None, *rows]:
            key = f"{seed}/{row}"
            if key in done:
                continue
            started, added = time.perf_counter(), None
            if row is not None:
                image = positions[table.images[table.image[row]]]
                added = experiment.region_batch(image, table.box[row].tolist(), arguments.labels)
                if not (added[1] != 255).any():
                    done[key] = done[f"{seed}/None"]  # void alone: adding it does nothing
                    continue
            done[key] = experiment.train(batches, added)
            scores = {name: values[name][rows].tolist() for name in columns}
            written = {"settings": settings, "rows": rows, "scores": scores, "losses": done}
            write_json(arguments.out, written)
            print(f"{key}: {done[key]:.6f}, {time.perf_counter() - started:.0f} s", flush=True)
    effects = np.array(
        [[done[f"{s}/{r}"] - done[f"{s}/None"] for s in range(arguments.seeds)] for r in rows]
    )
    summarise(effects, {name: values[name][rows] for name in columns})


if __name__ == "__main__":
    main()
