"""What scores of detectors cost beside the detectors' own passes.

    python tools/bench_detection.py influence --detector retinanet

`influence` times the influence of an image (`isal`, `error_change_first_order`) beside a backward
pass through the whole detector for it, and holds the two to each other. Processor time of one
thread; what is compared takes turns, image by image. The images are noise, and the last layer of
the classes is set so that about `--boxes` boxes are found: what they show costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from segal.candidates.regions import Boxes
from segal.models.build import build_network, make_spec
from segal.signals import Directional
from segal.signals.base import Visit
from segal.signals.directions import ReferenceGradient
from segal.tasks.detection.model import RAW, DetectionModel
from segal.tasks.detection.signals.influence import BoxDirectional, pseudo_boxes
from segal.tasks.detection.signals.last_layers import last_layers

Measured = dict[str, Any]
T = TypeVar("T")


class Timer:
    """Processor seconds by what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        found = work()
        self.seconds.setdefault(name, []).append(time.process_time() - start)
        return found

    def medians(self) -> dict[str, float]:
        return {name: median(found) for name, found in self.seconds.items()}


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
    image = picture(arguments, 0)
    with torch.no_grad():
        for norm in norms:  # of which the numbers stay of one size through many layers
            norm.train().momentum = 1.0
        model([image])
        model.eval()
        nn.init.normal_(layer.weight, std=0.1)
        nn.init.zeros_(layer.bias)
        for part in (layer.weight, layer.bias):
            logits = model([image], (RAW,)).raw[0].logits
            if part is layer.weight:
                part.mul_(2 / logits.std())
            elif arguments.detector != "fasterrcnn":
                part.sub_(logits.flatten().topk(arguments.boxes).values[-1] + 2.2)
    return model


def picture(arguments: argparse.Namespace, seed: int) -> Tensor:
    """(3, side, 4/3 side) of noise."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, arguments.side, arguments.side * 4 // 3, generator=generator)


class Bench:
    """Two images with boxes, as the set that a direction is taken on."""

    seed, unit = 0, "boxes"

    def __init__(self, model: Any, arguments: argparse.Namespace) -> None:
        self.model, self.arguments = model, arguments

    def visit(self, of: str, catch: tuple[str, ...] = ()) -> Iterator[Visit]:
        """One batch."""
        pair = [picture(self.arguments, seed) for seed in (1, 2)]
        corners = torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.3, 0.4, 0.9, 0.95]]) * self.arguments.side
        target = {"boxes": corners, "labels": torch.tensor([0, 1])}
        with torch.no_grad():
            yield Visit(self.model(pair, catch), torch.ones(()), [target, target])

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """Computed."""
        return compute()


def bench_influence(arguments: argparse.Namespace) -> Measured:
    """Influence from what a scan has at hand, beside a backward pass for each image."""
    torch.set_num_threads(1)
    model: Any = build(arguments)
    bench: Any = Bench(model, arguments)
    signal = BoxDirectional(Directional(ReferenceGradient()))
    meter = signal.prepare(bench)
    layers = [branch.layer for branch in last_layers(model).branches]
    parameters = [p for layer in layers for p in layer.parameters()]
    vector = torch.cat([v.flatten() for v in meter.vector.values()]).double()
    units = Boxes(((0, 0, arguments.side * 4 // 3, arguments.side),))
    timer, apart, boxes = Timer(), [], []
    for seed in range(-1, arguments.images):
        turn = timer if seed >= 0 else Timer()  # the first warms up
        image = picture(arguments, 10 + seed)
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
    print(f"{arguments.detector}, {arguments.backbone}, {arguments.classes} classes, ", end="")
    print(f"images of {arguments.side} x {arguments.side * 4 // 3}; boxes: {boxes}")
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    influence = kinds.add_parser("influence", help="beside a backward pass for each image")
    influence.add_argument(
        "--detector", default="retinanet", choices=("retinanet", "fcos", "fasterrcnn")
    )
    influence.add_argument("--backbone", default="resnet50")
    influence.add_argument("--side", type=int, default=480, help="shorter, in pixels")
    influence.add_argument("--classes", type=int, default=20)
    influence.add_argument("--images", type=int, default=5)
    influence.add_argument("--boxes", type=int, default=60, help="found in an image, about")
    influence.set_defaults(bench=bench_influence)
    for kind in (influence,):
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
