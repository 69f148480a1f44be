"""What scores of classified images cost beside the network's own passes; for bench_classification.

Processor time of one thread; what is compared takes turns, batch by batch or image by image.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segal.candidates.regions import RegionSize
from segal.data.image_sets import ImageSet, SetName
from segal.models.build import build_model, make_spec
from segal.models.wrapped import Model
from segal.scanning.scan import Scan, ScanSettings
from segal.scanning.workbench import Bench
from segal.signals import Signal
from segal.signals.directional import Directional
from segal.signals.directions import ReferenceGradient
from segal.strategies import STRATEGIES
from segal.strategies.base import PassContext
from segal.tasks import task_of
from segal.tasks.classification.datasets import ClassifiedImages, open_split

STRATEGIES_TIMED = ("entropy", "uwe", "badge", "isal", "ralif")


@dataclass(frozen=True)
class Data:
    """Made-up images of noise: what they show costs nothing."""

    pool: ClassifiedImages
    labelled: ClassifiedImages

    @classmethod
    def make(cls, folder: Path, images: int, side: int, classes: int) -> Data:
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for split, count in (("train", images), ("val", 4 * classes)):
            shape = (count, side, side, 3)
            arrays[f"x_{split}"] = rng.integers(0, 256, shape, np.uint8)
            arrays[f"y_{split}"] = np.arange(count) % classes
        np.savez(folder / "images.npz", **arrays)
        opened = [open_split(folder / "images.npz", split) for split in ("train", "val")]
        return cls(*opened)

    def sets(self) -> Mapping[SetName, ImageSet]:
        known = ImageSet(self.labelled.pool, self.labelled)
        pool = ImageSet(self.pool.pool)
        return {"val": known, "labelled": known, "initial": known, "pool": pool}


def _model(side: int, classes: int) -> Model:
    names = tuple(f"class {i}" for i in range(classes))
    torch.manual_seed(0)
    spec = make_spec("torchvision:resnet18", "", names, task="classification", input_side=0)
    return build_model(spec).eval()


def bench_scoring(images: int, side: int, classes: int, batch: int, repeats: int) -> dict[str, Any]:
    """Five strategies' signals in one pass over the pool, over the bare network's passes.

    The floor is the network alone, on the same images in the same batches, read and normalised.
    """
    torch.set_num_threads(1)
    context = PassContext(shared_features=True)
    asked = [
        s for name in STRATEGIES_TIMED for s in next(iter(STRATEGIES.get(name)().passes(context)))
    ]
    signals: Sequence[Signal] = list(dict.fromkeys(asked))
    settings = ScanSettings(torch.device("cpu"), batch_size=batch, workers=0)
    with TemporaryDirectory() as folder:
        data, model = Data.make(Path(folder), images, side, classes), _model(side, classes)
        bare, scanned, ready = list[float](), list[float](), list[float]()
        for turn in range(repeats + 1):
            bare.append(_bare(model, data, batch))
            scan = Scan(
                pool=data.pool.pool,
                task=task_of(model.spec),
                regions=[RegionSize()],
                settings=settings,
                signals=signals,
                model=model,
                sets=data.sets(),
            )
            began, marks = time.process_time(), list[float]()
            scan.run(
                Path(folder) / f"tables-{turn}",
                lambda done, _, marks=marks: marks.append(time.process_time()),  # type: ignore[misc]
            )
            ready.append(marks[0] - began)
            scanned.append(marks[-1] - marks[0])
    ratios = [s / b for s, b in zip(scanned[1:], bare[1:], strict=True)]  # the first warms up
    result = {
        "bare_s": median(bare[1:]),
        "pass_s": median(scanned[1:]),
        "ready_s": median(ready[1:]),
        "ratio": median(ratios),
    }
    print(f"{images} images of {side} x {side}, {classes} classes, {len(signals)} signals")
    print(f"bare ResNet-18       {result['bare_s']:9.2f} s   1.000 (floor)")
    print(f"the pass             {result['pass_s']:9.2f} s   {result['ratio']:.3f} (aim: 1.15)")
    print(f"getting ready before {result['ready_s']:9.2f} s   (ISAL's set, RALIF's first pass)")
    return result


@torch.no_grad()
def _bare(model: Model, data: Data, batch: int) -> float:
    pool = data.pool.pool
    began = time.process_time()
    for start in range(0, len(pool), batch):
        rows = range(start, min(start + batch, len(pool)))
        pixels = torch.from_numpy(np.stack([pool.read(i) for i in rows]))
        model.network(model.normalise(pixels))
    return time.process_time() - began


def bench_isal(images: int, side: int, classes: int, batch: int, repeats: int) -> dict[str, Any]:
    """Influence by every parameter, beside one backward pass an image; and how far they differ.

    The direction is the gradient of a reference set's loss (the Hessian left out, which both ways
    share); an image's score is its gradient's product with it.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        data, model = Data.make(Path(folder), images, side, classes), _model(side, classes)
        settings = ScanSettings(torch.device("cpu"), batch_size=batch, workers=0)
        bench = Bench(model, task_of(model.spec), settings, data.sets())
        recipe = ReferenceGradient("val", "all")
        meter = Directional(recipe).prepare(bench)
        direction = recipe.vector(bench)
        grid = RegionSize().grid(1, 1)
        pool = data.pool.pool
        ours, theirs, difference = list[float](), list[float](), 0.0
        for _ in range(repeats):
            began, scores = time.process_time(), list[Tensor]()
            for start in range(0, len(pool), batch):
                rows = range(start, min(start + batch, len(pool)))
                pixels = torch.from_numpy(np.stack([pool.read(i) for i in rows]))
                with torch.no_grad():
                    evidence = model(model.normalise(pixels), tuple(meter.catch))
                    scores.append(meter.measure(evidence, grid)[:, 0])
            ours.append(time.process_time() - began)
            began = time.process_time()
            single = _one_by_one(model, data, direction)
            theirs.append(time.process_time() - began)
            measured = torch.cat(scores).double()
            same = min((measured - single).abs().max(), (measured + single).abs().max())
            difference = float(same / single.abs().max())
    result = {
        "ours_s": median(ours),
        "one_backward_each_s": median(theirs),
        "factor": median([b / a for a, b in zip(ours, theirs, strict=True)]),
        "relative_difference": difference,
    }
    print(f"{images} images of {side} x {side}: influence by all parameters")
    print(f"one backward pass an image {result['one_backward_each_s']:9.2f} s")
    print(
        f"forward mode, by batches   {result['ours_s']:9.2f} s   {result['factor']:.2f} x faster "
        f"(aim: 5), relative difference {difference:.1e} (aim: 1e-5)"
    )
    return result


def _one_by_one(model: Model, data: Data, direction: Mapping[str, Tensor]) -> Tensor:
    pool, network = data.pool.pool, model.network
    named = {f"network.{name}": p for name, p in network.named_parameters()}
    parameters = [named[name] for name in direction]
    scores = []
    for index in range(len(pool)):
        inputs = model.normalise(torch.tensor(pool.read(index))[None])
        logits = network(inputs)
        loss = torch.nn.functional.cross_entropy(logits, logits.argmax(1))
        gradient = torch.autograd.grad(loss, parameters)
        products = [
            (g.double() * v.double()).sum()
            for g, v in zip(gradient, direction.values(), strict=True)
        ]
        scores.append(torch.stack(products).sum())
    return torch.stack(scores)
