"""One network through every door, and a SegFormer by its configuration, for docs/results/doors.md.

    python -m tools.doors_camvid CAMVID ENCODER_WEIGHTS OUT [EVERY]

The pool is every EVERY-th image of the training split, all of them unless given. Needs the packages
transformers and lightning. CAMVID has the layout `folder`; ENCODER_WEIGHTS are MobileNetV2's of
ImageNet. Every step is a segal command or `segal.select`; a step that is done is not done again, so
the tool may be killed. Prints the tables of the document at the end.
"""

import csv
import importlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import SegformerConfig

import segal
from segal.cli import app
from segal.models.callables import Predict
from segal.models.checkpoint import load_checkpoint

ARCHITECTURE, ENCODER, CLASSES, SCALE = "DeepLabV3Plus", "mobilenet_v2", 11, 0.5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STRATEGIES = ("uwe", "entropy")
PICKING: dict[str, Any] = {"region": "128", "budget": "5%", "threads": 1, "seed": 0, "overlays": 0}
SCALED = ("--input-scale", SCALE)
NAMED = ("--arch", ARCHITECTURE, "--encoder", ENCODER, "--num-classes", CLASSES, *SCALED)
OWN = ("--arch", "tools.doors_camvid:deeplab", "--num-classes", CLASSES, *SCALED)
SEGFORMER_DOORS = ("segal", "folder", "callable-naive")
STEPS = {"segformer": 300, "deeplab": 200}
DEEPLAB_DOORS = (
    *("segal", "lightning", "compiled", "plain", "own", "save_pretrained"),
    *("callable", "callable-naive"),
)


def main() -> None:
    camvid, weights, out = map(Path, sys.argv[1:4])
    every = int(sys.argv[4]) if len(sys.argv) > 4 else 1
    out.mkdir(parents=True, exist_ok=True)
    images = saved(out / "pool", lambda to: thin(camvid / "images" / "train", every, to))
    train_segformer(camvid, out)
    train_deeplab(camvid, weights, out)
    segformer_doors(images, out)
    deeplab_doors(images, out)
    print(trainings(out))
    print(table(out, "segformer", SEGFORMER_DOORS))
    print(table(out, "deeplab", DEEPLAB_DOORS))


def segformer_doors(images: Path, out: Path) -> None:
    trained = out / "model-segformer" / "model.safetensors"
    model: Any = load_checkpoint(trained).network.model  # as transformers built it
    pick(images, out / "segformer-segal", "--checkpoint", trained, "--overlays", 6)
    folder = saved(out / "segformer-saved", model.save_pretrained)
    pick(images, out / "segformer-folder", "--arch", f"hf:{folder}", *SCALED)
    predict = naive(lambda batch: model(pixel_values=batch).logits, model.decode_head.classifier)
    call(images, out / "segformer-callable-naive", predict, stride=32)


def deeplab_doors(images: Path, out: Path) -> None:
    trained = out / "model-deeplab" / "model.safetensors"
    network: Any = load_checkpoint(trained).network
    state = network.state_dict()
    files = {
        "lightning": saved(out / "lightning.ckpt", lambda to: lightning(network, to)),
        "compiled": saved(out / "compiled.pth", lambda to: torch.save(compiled(network), to)),
        "plain": saved(out / "plain.pth", lambda to: torch.save(state, to)),
    }
    pick(images, out / "deeplab-segal", "--checkpoint", trained, "--overlays", 6)
    for door, file in files.items():
        pick(images, out / f"deeplab-{door}", "--checkpoint", file, *NAMED)
    pick(images, out / "deeplab-own", "--checkpoint", files["plain"], *OWN)
    folder = saved(out / "deeplab-saved", network.save_pretrained)
    pick(images, out / "deeplab-save_pretrained", "--checkpoint", folder, *SCALED)
    call(images, out / "deeplab-callable", exact(network), stride=16)
    predict = naive(network, network.segmentation_head)
    call(images, out / "deeplab-callable-naive", predict, stride=16)


def thin(images: Path, every: int, to: Path) -> None:
    to.mkdir(exist_ok=True)
    for image in sorted(images.iterdir())[::every]:
        shutil.copyfile(image, to / image.name)


def train_segformer(camvid: Path, out: Path) -> None:
    config = SegformerConfig(hidden_sizes=[32, 64, 160, 256], depths=[2, 2, 2, 2])
    folder = saved(out / "segformer-config", config.save_pretrained)
    run(
        *("train", "--arch", f"hf:{folder}", "--data", camvid, "--layout", "folder"),
        *("--ignore-index", "11", "--split", "train", "--test", "test", "--input-scale", SCALE),
        *(
            "--iterations",
            STEPS["segformer"],
            "--crop",
            "256",
            "--lr",
            "6e-4",
            "train.optimizer=adamw",
        ),
        *("train.weight_decay=0.01", "train.batch_size=8", "train.scale=0.75,1.5"),
        *("train.workers=1", "machine.batch_size=8", "--threads", "1", "--seed", "0"),
        *("--out", out / "model-segformer"),
    )


def train_deeplab(camvid: Path, weights: Path, out: Path) -> None:
    run(
        *("train", "--config", "configs/camvid_train.yaml", "--data", camvid),
        *(
            "--encoder-weights",
            weights,
            "--iterations",
            STEPS["deeplab"],
            "--seed",
            "0",
            "--threads",
            "1",
        ),
        *("--out", out / "model-deeplab"),
    )


def run(*arguments: object) -> None:
    """A command of segal, in this process."""
    words = list(map(str, arguments))
    print("segal", shlex.join(words), flush=True)
    app(words, standalone_mode=False)


def pick(images: Path, out: Path, *network: object) -> None:
    """`segal select` by each strategy, into folders whose names begin with that of `out`."""
    options = [word for key, value in PICKING.items() for word in (f"--{key}", value)]
    for strategy in STRATEGIES:
        to = out.with_name(f"{out.name}-{strategy}")
        run("select", "--images", images, *options, *network, "--strategy", strategy, "--out", to)


def call(images: Path, out: Path, predict: Predict, stride: int) -> None:
    """`segal.select` by each strategy, likewise."""
    for strategy in STRATEGIES:
        segal.select(
            images,
            predict=predict,
            strategy=strategy,
            out=out.with_name(f"{out.name}-{strategy}"),
            mean=MEAN,
            std=STD,
            input_scale=SCALE,
            stride=stride,
            **PICKING,
        )


def saved(path: Path, save: Callable[[Path], object]) -> Path:
    """Writes a file or folder, unless it is there."""
    if not path.exists():
        partial = path.with_name("partial-" + path.name)
        save(partial)
        partial.rename(path)
    return path


def deeplab(num_classes: int) -> nn.Module:
    """The same architecture as a network of one's own."""
    network: nn.Module = smp.DeepLabV3Plus(ENCODER, encoder_weights=None, classes=num_classes)
    network.size_divisibility = 16  # type: ignore[assignment]
    return network


def lightning(network: nn.Module, path: Path) -> None:
    """A checkpoint that Lightning's trainer writes after two steps, which change no weight."""
    pl: Any = importlib.import_module("lightning.pytorch")

    class Task(pl.LightningModule):  # type: ignore[misc]
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = network.eval()
            self.criterion = nn.CrossEntropyLoss(weight=torch.ones(CLASSES))

        def training_step(self, batch: Tensor) -> Tensor:
            loss: Tensor = self.criterion(self.net(batch), torch.zeros(2, 64, 64).long())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)

    trainer = pl.Trainer(max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    images: Any = torch.rand(4, 3, 64, 64)
    trainer.fit(Task(0.0), DataLoader(images, batch_size=2))
    trainer.save_checkpoint(path)


def compiled(network: nn.Module) -> dict[str, Tensor]:
    """The state_dict of a network that torch.compile made faster, which has run once."""
    faster: Any = torch.compile(network, backend="aot_eager")
    with torch.no_grad():
        faster(torch.rand(1, 3, 64, 64))
    state: dict[str, Tensor] = faster.state_dict()
    return state


def naive(logits: Callable[[Tensor], Tensor], head: nn.Module) -> Predict:
    """A function as anyone would write it: the network's logits, and its head's input."""
    caught: list[Tensor] = []
    head.register_forward_hook(lambda _, inputs, output: caught.append(inputs[0]))

    def predict(batch: Tensor) -> tuple[Tensor, Tensor]:
        caught.clear()
        return logits(batch), caught[0]

    return predict


def exact(network: Any) -> Predict:
    """A function that spreads both maps over the image in one step, corners aligned, as segal does.

    Segal spreads what a function returns with corners not aligned; this network's head aligns them.
    """

    def predict(batch: Tensor) -> tuple[Tensor, Tensor]:
        features = network.decoder(network.encoder(batch))
        logits = network.segmentation_head[0](features)
        size = [round(side / SCALE) for side in batch.shape[-2:]]
        spread = (
            F.interpolate(x, size, mode="bilinear", align_corners=True) for x in (logits, features)
        )
        return next(spread), next(spread)

    return predict


def trainings(out: Path) -> str:
    lines = ["| network | steps | mIoU | accuracy | seconds |", "|---|---|---|---|---|"]
    for name, steps in STEPS.items():
        metrics = json.loads((out / f"model-{name}" / "metrics.json").read_text())
        test = metrics["test"]
        lines.append(
            f"| {name} | {steps} | {100 * test['miou']:.2f} | "
            f"{100 * test['accuracy']:.2f} | {metrics['seconds']['train']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def table(out: Path, network: str, doors: Sequence[str]) -> str:
    """Whether doors give the picks of the first, and how long they take."""
    lines = [
        f"| {network} through | strategy | selection.csv | same regions | same order | "
        "scores differ by at most | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    first = doors[0]
    for door in doors:
        for strategy in STRATEGIES:
            folders = [out / f"{network}-{d}-{strategy}" for d in (first, door)]
            a, b = (rows(folder / "selection.csv") for folder in folders)
            bytes_ = [(folder / "selection.csv").read_bytes() for folder in folders]
            same = "same bytes" if bytes_[0] == bytes_[1] else "other bytes"
            shared = a.keys() & b.keys()
            order = sum(x == y for x, y in zip(a, b, strict=False))
            apart = max((abs(a[k] - b[k]) for k in shared), default=0.0)
            seconds = json.loads((folders[1] / "summary.json").read_text())["seconds"]
            lines.append(
                f"| {door} | {strategy} | {same} | {len(shared)} of {len(a)} | {order} of {len(a)} "
                f"| {apart:.2g} | {sum(seconds.values()):.0f} |"
            )
    return "\n".join(lines) + "\n"


def rows(selection: Path) -> dict[tuple[str, ...], float]:
    """Scores by region, in the order of the picks."""
    with selection.open(newline="") as file:
        return {
            (row["image"], row["x"], row["y"], row["width"], row["height"]): float(row["score"])
            for row in csv.DictReader(file)
        }


if __name__ == "__main__":
    main()
