"""What scores of detectors cost beside the detectors' own passes.

    python tools/bench_detection.py scan --detector fasterrcnn
    python tools/bench_detection.py influence --detector retinanet
    python tools/bench_detection.py uwe

`scan` times segal's scan for uwe, bvsb, cdal and isal at once beside the bare detector on the same
images. `influence` times the influence of an image (`isal`, `error_change_first_order`) beside a
backward pass through the whole detector for it, and holds the two to each other. Both count
processor time of one thread; what is compared takes turns, image by image. Images are noise, in
memory; the last layer of the classes is drawn at random and its bias set so that about `--boxes`
boxes of a score above 0.1 are found: what they show costs nothing.

`uwe` is the selection from class-wise embeddings of the size of VOC0712, beside the textbook loop
over the same numbers in memory: see `bench_class_wise`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import bench_class_wise
import numpy as np
import torch
from torch import Tensor, nn

from segal.candidates.regions import Boxes, RegionSize
from segal.data.image_sets import ImageSet
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.models.build import build_network, make_spec
from segal.scanning.scan import Scan, ScanSettings
from segal.scanning.workbench import Bench
from segal.signals import Signal
from segal.signals.directional import Directional
from segal.signals.directions import ReferenceGradient
from segal.strategies.base import PassContext
from segal.strategies.bvsb import BestVersusSecondBest
from segal.strategies.cdal import CDAL
from segal.strategies.isal import InfluenceSelection
from segal.strategies.uwe import UncertaintyWeightedEmbeddings
from segal.tasks.detection.model import RAW, DetectionModel
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.signals.influence import BoxDirectional, pseudo_boxes
from segal.tasks.detection.signals.last_layers import last_layers
from segal.tasks.detection.task import Detection

Measured = dict[str, Any]
T = TypeVar("T")

SETTINGS = ScanSettings(torch.device("cpu"), workers=0)
STRATEGIES = {
    "uwe": UncertaintyWeightedEmbeddings(uncertainty="bvsb", class_wise="max"),
    "bvsb": BestVersusSecondBest(),
    "cdal": CDAL(),
    "isal": InfluenceSelection(hessian_pixels=100),  # before the pass, whatever their number
}


@dataclass
class Timer:
    """Processor seconds by what was done."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        found = work()
        self.add(name, time.process_time() - start)
        return found

    def add(self, name: str, seconds: float) -> None:
        self.seconds.setdefault(name, []).append(seconds)

    def medians(self) -> dict[str, float]:
        return {name: median(found) for name, found in self.seconds.items()}


class Noise(ImagePool):
    """Images of noise that are in memory already."""

    def read(self, index: int) -> Any:
        generator = np.random.default_rng([int(self.paths[index][:-4])])
        return generator.integers(0, 256, (*self.size(index), 3), dtype=np.uint8)


class Known:
    """Labels: two boxes in every image."""

    def __init__(self, side: int) -> None:
        corners = np.array([[0.1, 0.1, 0.6, 0.5], [0.3, 0.4, 0.9, 0.95]]) * side
        whole = (0, 0, side * 4 // 3, side)
        self._objects = Objects(corners, np.array([0, 1]), np.zeros(2, np.bool_), (whole,))

    def read_label(self, index: int) -> Objects:
        return self._objects


def pool_of(arguments: argparse.Namespace, first: int, count: int) -> Noise:
    infos = (ImageInfo(arguments.side, arguments.side * 4 // 3, ""),) * count
    paths = tuple(f"{first + i:06}.png" for i in range(count))
    return Noise(root=Path(), paths=paths, infos=infos, stats=((0, 0),) * count)


def build(arguments: argparse.Namespace) -> Any:
    """A detector that finds about so many boxes in noise."""
    options = {"min_size": arguments.side, "max_size": 2 * arguments.side}
    spec = make_spec(
        f"torchvision:{arguments.detector}",
        arguments.backbone,
        tuple(f"class {i}" for i in range(arguments.classes)),
        options=options,
        task="detection",
    )
    torch.manual_seed(0)
    model: Any = DetectionModel(build_network(spec), spec).eval()
    norms: list[Any] = [m for m in model.network.modules() if isinstance(m, nn.BatchNorm2d)]
    (layer,) = model.last_layers()
    image = fed(model, pool_of(arguments, 0, 1), 0)
    with torch.no_grad():
        for norm in norms:  # of which the numbers stay of one size through many layers
            norm.train().momentum = 1.0
        model([image])
        model.eval()
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.zeros_(layer.bias)
        logits = model([image], (RAW,)).raw[0].logits
        layer.weight.mul_(2 / logits.std())
        low, high = 0.0, 14.0  # of the bias: the higher, the fewer boxes
        background = arguments.detector == "fasterrcnn"
        for _ in range(9):
            middle = (low + high) / 2
            layer.bias[: 1 if background else None] = middle if background else -middle
            count = len(pseudo_boxes(model([image]).detections[0]))
            if abs(count / arguments.boxes - 1) < 0.3:
                break
            low, high = (low, middle) if count < arguments.boxes else (middle, high)
    return model


def fed(model: Any, pool: Noise, index: int) -> Tensor:
    """(3, H, W), normalised."""
    images: Tensor = model.normalise(torch.from_numpy(pool.read(index))[None])
    return images[0]


def signals_of(names: list[str]) -> list[Signal]:
    """What strategies ask for, each once."""
    asked = [next(iter(STRATEGIES[name].passes(PassContext()))) for name in names]
    return list(dict.fromkeys(signal for signals in asked for signal in signals))


def bench_scan(arguments: argparse.Namespace) -> Measured:
    """The scan beside the bare detector, which runs where the scan says that an image is done."""
    torch.set_num_threads(1)
    model: Any = build(arguments)
    task, pool = Detection(), pool_of(arguments, 100, arguments.images + 1)
    labelled: Any = ImageSet(pool_of(arguments, 10, 2), Known(arguments.side))  # type: ignore[arg-type]
    timer, boxes, mark = Timer(), [], time.process_time()

    def bare(index: int) -> Any:
        return model.network([fed(model, pool, index)])

    @torch.no_grad()
    def turn(done: int, _: int) -> None:
        nonlocal mark
        spent = time.process_time() - mark
        if done < 2:  # getting ready; the first image warms up
            timer.add("getting ready" if done == 0 else "first image", spent)
        else:
            timer.add("scan", spent)
            found = timer("bare detector", partial(bare, done - 1))
            boxes.append(len(found[0]["boxes"]))
        mark = time.process_time()

    with TemporaryDirectory() as folder:
        Scan(
            pool=pool,
            task=task,
            regions=[RegionSize.parse("image")],
            settings=SETTINGS,
            signals=signals_of(arguments.strategies),
            model=model,
            sets={"val": labelled, "labelled": labelled},
        ).run(Path(folder) / "candidates", turn)
    seconds = timer.medians()
    pairs = zip(timer.seconds["scan"], timer.seconds["bare detector"], strict=True)
    each = sorted(scan / alone for scan, alone in pairs)
    result: Measured = {
        "seconds": seconds,
        "boxes": boxes,
        "ratios": each,
        "ratio": seconds["scan"] / seconds["bare detector"],
        "median_of_paired_ratios": median(each),
    }
    describe(arguments, boxes)
    print(f"scan for {', '.join(arguments.strategies)}: {seconds['scan']:.3f} s an image, ", end="")
    print(f"the bare detector {seconds['bare detector']:.3f} s; before the pass ", end="")
    print(f"{seconds['getting ready']:.1f} s")
    print(f"ratio {result['ratio']:.3f} (aim: at most 1.15); of pairs, median {median(each):.3f}, ")
    print("all: " + " ".join(f"{ratio:.2f}" for ratio in each))
    return result


def describe(arguments: argparse.Namespace, boxes: list[int]) -> None:
    size = f"{arguments.side} x {arguments.side * 4 // 3}"
    print(f"{arguments.detector}, {arguments.backbone}, {arguments.classes} classes, ", end="")
    print(f"images of {size}; boxes: {boxes}")


def bench_influence(arguments: argparse.Namespace) -> Measured:
    """Influence from what a scan has at hand, beside a backward pass for each image."""
    torch.set_num_threads(1)
    model: Any = build(arguments)
    labelled: Any = ImageSet(pool_of(arguments, 10, 2), Known(arguments.side))  # type: ignore[arg-type]
    bench = Bench(model, Detection(), SETTINGS, {"val": labelled})
    meter = BoxDirectional(Directional(ReferenceGradient())).prepare(bench)
    layers = [branch.layer for branch in last_layers(model).branches]
    parameters = [p for layer in layers for p in layer.parameters()]
    vector = torch.cat([v.flatten() for v in meter.vector.values()]).double()
    units = Boxes(((0, 0, arguments.side * 4 // 3, arguments.side),))
    timer, apart, boxes = Timer(), [], []
    pool = pool_of(arguments, 100, arguments.images + 1)
    for index in range(arguments.images + 1):
        turn = timer if index else Timer()  # the first warms up
        image = fed(model, pool, index)
        with torch.no_grad():
            turn("inference", partial(model, [image]))
            evidence = turn("inference, with raw outputs", partial(model, [image], (RAW,)))
            found = turn("influence", partial(meter.measure, evidence, units))
        kept = pseudo_boxes(evidence.detections[0])
        target = {"boxes": kept.boxes, "labels": kept.classes}
        boxes.append(len(kept))
        model.network.zero_grad()
        losses = turn("forward, with a graph", partial(model.losses, [image], [target]))
        loss: Any = torch.stack(list(losses.values())).sum()
        turn("backward", loss.backward)
        gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).double()
        expected = float(gradient @ vector)
        apart.append(abs(float(found) - expected) / abs(expected))
    seconds = timer.medians()
    both = seconds["forward, with a graph"] + seconds["backward"]
    result: Measured = {
        "seconds": seconds,
        "boxes": boxes,
        "of_inference": seconds["influence"] / seconds["inference"],
        "faster_than_backward": seconds["backward"] / seconds["influence"],
        "faster_than_forward_and_backward": both / seconds["influence"],
    }
    describe(arguments, boxes)
    for name, value in seconds.items():
        print(f"{name:<30}{value:>9.3f} s")
    print(f"influence: {result['of_inference']:.3f} of the inference, ", end="")
    print(f"{result['faster_than_backward']:.1f} times faster than backward alone, ", end="")
    print(f"{result['faster_than_forward_and_backward']:.1f} times than both (aim: 8)")
    if arguments.detector != "fasterrcnn":  # whose training draws at random
        result["apart"] = max(apart)
        print(f"largest relative difference: {max(apart):.1e} (aim: 1e-5)")
    return result


def main() -> None:
    if sys.argv[1:2] == ["one"]:
        bench_class_wise.one_run(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    scan = kinds.add_parser("scan", help="several strategies in one pass, over the bare detector")
    scan.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    scan.set_defaults(bench=bench_scan)
    influence = kinds.add_parser("influence", help="beside a backward pass for each image")
    influence.set_defaults(bench=bench_influence)
    for kind in (scan, influence):
        kind.add_argument(
            "--detector", default="retinanet", choices=("retinanet", "fcos", "fasterrcnn")
        )
        kind.add_argument("--backbone", default="resnet50")
        kind.add_argument("--side", type=int, default=480, help="shorter, in pixels")
        kind.add_argument("--classes", type=int, default=20)
        kind.add_argument("--images", type=int, default=9)
        kind.add_argument("--boxes", type=int, default=40, help="found in an image, about")
    uwe = kinds.add_parser("uwe", help="selection from class-wise embeddings")
    bench_class_wise.add_arguments(uwe)
    for kind in (scan, influence, uwe):
        kind.add_argument("--json", type=Path, help="write what was measured to this file")
    arguments = parser.parse_args()
    result = arguments.bench(arguments)
    if arguments.json:
        given = {k: str(v) for k, v in vars(arguments).items() if k not in {"bench", "json"}}
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        record = {"arguments": given, "machine": machine, **result}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
