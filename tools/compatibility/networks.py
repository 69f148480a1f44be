"""Networks of every kind, each going through `segal select` on a few small images."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torchvision
import transformers
from torch import nn

import segal
from segal.errors import SegalError
from segal.jobs.select import run_selection
from segal.jobs.strategies import configure_selection
from segal.models.sources.huggingface import SEMANTIC, UNIVERSAL
from segal.strategies import STRATEGIES
from tests.form_networks import FORMS, Headless, Network
from tests.small_transformers import CLASSES, written
from tools.compatibility.row import Row

TITLE = "Networks"
INTRODUCTION = (
    "`segal select` with a network of random weights and 3 classes (of one output, 2) on images of "
    "60 x 90 pixels, which no stride divides. Strategies tried, unless others are named: `entropy` "
    "(needs logits), `uwe` (features), `badge` (the last layer)."
)
SIZE = (60, 90)
USUAL = ("entropy", "uwe", "badge")
MORE = (*USUAL, "coreset", "error_change_first_order", "mc_dropout")
FEW = ("entropy", "uwe")
_SUBJECT = re.compile(r"^([\w.:]+: )+")  # of a message: the case names the network
Save = Callable[[Path], Path]
"""Writes a network's file or folder into a folder, and returns its path."""


@dataclass(frozen=True)
class Case:
    """A network and the strategies that are tried with it.

    Attributes:
        name: As the table has it.
        save: What writes its weights.
        model: What the checkpoint does not say, as in `ModelConfig`.
        strategies: To be tried.
        classes: How many it has.
        size: Height and width of the images.
    """

    name: str
    save: Save
    model: Mapping[str, Any] = field(default_factory=dict)
    strategies: Sequence[str] = USUAL
    classes: int = 3
    size: tuple[int, int] = SIZE


def rows() -> Iterator[Row]:
    """Tries them all."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    with TemporaryDirectory() as temporary:
        bench = Bench(Path(temporary))
        for kind in (forms, own, of_smp, of_torchvision, of_huggingface):
            for case in kind():
                yield Row(case.name, bench.outcome(case))
        yield from bench.functions()


class Bench:
    """Images, labelled ones beside them, and what came of selections from them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.number = 0

    def outcome(self, case: Case) -> str:
        """What comes of a network, in a few words."""
        self.number += 1
        folder = self.root / str(self.number)
        folder.mkdir()
        torch.manual_seed(0)
        checkpoint = case.save(folder)
        found = {}
        for strategy in case.strategies:
            given = {
                "checkpoint": checkpoint,
                "model": dict(case.model),
                **self.settings(strategy, folder / strategy, case.classes, case.size),
            }
            found[strategy] = self.tried(
                lambda given=given: run_selection(*configure_selection(given)).picks
            )
        return _told(found)

    def settings(
        self, strategy: str, out: Path, classes: int = 3, size: tuple[int, int] = SIZE
    ) -> dict[str, Any]:
        """Those of a selection."""
        kind = STRATEGIES.get(strategy)
        given: dict[str, Any] = {
            "images": self.images(size),
            "out": out,
            "region": "30",
            "budget": "20%",
            "strategy": {"name": strategy},
            "overlays": 0,
            "machine": {"device": "cpu", "threads": 1, "workers": 0},
        }
        if kind.uses_reference_labels:
            given["reference"] = {"root": self.labelled(classes, size), "split": "val"}
        return given

    def images(self, size: tuple[int, int]) -> Path:
        """A pool of two."""
        folder = self.root / f"pool of {size}"
        if not folder.exists():
            for index in range(2):
                _write(folder / f"{index}.png", _picture(index, size))
        return folder

    def labelled(self, classes: int, size: tuple[int, int]) -> Path:
        """A labelled data set of as many classes."""
        root = self.root / f"labelled of {classes} and {size}"
        if not root.exists():
            _write(root / "images" / "val" / "a.png", _picture(9, size))
            label = np.random.default_rng(0).integers(0, classes, size, dtype=np.uint8)
            _write(root / "labels" / "val" / "a.png", label)
            (root / "classes.txt").write_text("".join(f"{n}\n" for n in CLASSES[:classes]))
        return root

    def tried(self, select: Callable[[], Sequence[object]]) -> str:
        """Whether regions are picked, or the reason why not."""
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                select()
        except SegalError as error:
            return self.refused(error)
        return "picks"

    def refused(self, error: SegalError) -> str:
        """Why something is refused, without the folders of this machine."""
        why = error.got or ""
        if re.match(r"\w+Error: ", why):  # whatever a library said of its insides
            why = error.expected or ""
        said = re.sub(rf"{re.escape(str(self.root))}(/\d+)?/?", "", f"{error.problem} ({why})")
        return f"refused: {_SUBJECT.sub('', said)}"

    def functions(self) -> Iterator[Row]:
        """Functions, by `segal.select`."""
        torch.manual_seed(0)
        network = Network(3).eval()

        def features(images: torch.Tensor) -> torch.Tensor:
            return network.body(images)

        for name, predict in (
            ("logits", network),
            ("logits as an array", lambda images: network(images).detach().numpy()),
            ("logits and features", lambda images: (network(images), features(images))),
            ("a dictionary with `logits`", lambda images: {"logits": network(images)}),
            ("probabilities", lambda images: network(images).softmax(1)),
            ("the likeliest class", lambda images: network(images).argmax(1)),
            ("nothing", lambda images: None),
        ):
            self.number += 1
            found = {}
            for strategy in USUAL:
                given = self.settings(strategy, self.root / str(self.number) / strategy)
                given["strategy"] = strategy
                found[strategy] = self.tried(
                    lambda given=given, predict=predict: (
                        segal.select(**given, predict=predict).picks
                    )
                )
            yield Row(f"`segal.select(predict=f)`, f returns {name}", _told(found))


def _told(found: Mapping[str, str]) -> str:
    """Strategies with their outcomes, those of the same together."""
    outcomes: dict[str, list[str]] = {}
    for strategy, outcome in found.items():
        outcomes.setdefault(outcome, []).append(strategy)
    if list(outcomes) == ["picks"]:
        return "runs" if list(found) == list(USUAL) else f"runs ({', '.join(found)})"
    if len(outcomes) == 1:
        return next(iter(outcomes))
    said = {"picks": "runs"}
    return "; ".join(f"{', '.join(by)}: {said.get(what, what)}" for what, by in outcomes.items())


def _write(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def _picture(seed: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1]))


def state(network: Callable[[], nn.Module]) -> Save:
    """Saves a state_dict."""

    def save(folder: Path) -> Path:
        torch.save(network().state_dict(), folder / "model.pth")
        return folder / "model.pth"

    return save


def pretrained(network: Callable[[], nn.Module]) -> Save:
    """Saves a folder, as `save_pretrained` does."""

    def save(folder: Path) -> Path:
        made: Any = network()
        with contextlib.redirect_stderr(io.StringIO()):
            made.save_pretrained(folder / "network")
        return folder / "network"

    return save


def forms() -> Iterator[Case]:
    """A network of one's own, in every form."""
    shown = {"logits": "a dictionary with `logits`", "out": "a dictionary with `out`"}
    for form in FORMS:
        what = shown.get(form, f"a {form}")
        yield _own(f"own network by import path, returns {what}", options={"form": form})
    yield _own("its logits left at stride 4", options={"upsampled": 1})
    for times in (0.5, 2, 8):
        name = f"its logits of stride 4 spread to stride {4 / times:g}"
        yield _own(name, options={"upsampled": times})


def own() -> Iterator[Case]:
    """Networks of one's own that lack something."""
    yield _own("own, one output for 2 classes", "one_output", Network(1), classes=2)
    yield _own("own, one output for 3 classes", "one_output", Network(1))
    yield _own("own, tanh after the last convolution", "headless", Headless(3, dropout=0.3), MORE)
    yield _own("own, 4 input channels", "four_channels", Network(3, channels=4))
    yield _own("own, takes squares alone", "square_only")


def _own(
    name: str,
    function: str = "of_form",
    network: nn.Module | None = None,
    strategies: Sequence[str] = USUAL,
    classes: int = 3,
    **model: Any,
) -> Case:
    model = {"architecture": f"tests.form_networks:{function}", "num_classes": classes, **model}
    return Case(name, state(lambda: network or Network(3)), model, strategies, classes)


def of_smp() -> Iterator[Case]:
    """Of segmentation_models_pytorch."""
    yield _smp(strategies=MORE)
    yield _smp(encoder_output_stride=8)
    yield _smp("Unet", "resnet18", decoder_channels=[32, 16, 16, 8, 8])
    yield _smp("PAN", "resnet18")
    yield _smp("DPT", "tu-vit_tiny_patch16_224", ("error_change_first_order",))
    yield _smp("UPerNet", "tu-swin_tiny_patch4_window7_224", ("uwe",))
    yield _smp("UPerNet", "resnet18", outputs=1)
    yield _smp("UPerNet", "resnet18", outputs=1, classes=1)
    for outputs in (3, 1):
        network = partial(
            *(smp.create_model, "DeepLabV3Plus", "mobilenet_v2", None, 3, outputs),
            encoder_output_stride=8,
        )
        name = f"smp `save_pretrained` folder, encoder_output_stride 8, {_outputs(outputs)}"
        yield Case(name, pretrained(network), {}, FEW, max(2, outputs))


def _smp(
    architecture: str = "DeepLabV3Plus",
    encoder: str = "mobilenet_v2",
    strategies: Sequence[str] = USUAL,
    outputs: int = 3,
    **options: Any,
) -> Case:
    made = partial(smp.create_model, architecture, encoder, None)
    classes = max(2, outputs)
    model = {"architecture": architecture, "encoder": encoder, "num_classes": classes}
    name = f"smp {architecture} with {encoder}" + ", one output" * (outputs == 1)
    if options:
        model["options"] = options
        name += "".join(f", `model.options.{key}={value}`" for key, value in options.items())
    network = partial(made, **{"classes": outputs, **options})
    return Case(name, state(network), model, strategies, classes)


def _outputs(number: int) -> str:
    return "one output" if number == 1 else f"{number} classes"


def of_torchvision() -> Iterator[Case]:
    """Of torchvision."""
    yield _torchvision("lraspp_mobilenet_v3_large", MORE)
    yield _torchvision("deeplabv3_mobilenet_v3_large", USUAL, aux_loss=True)
    yield _torchvision("fcn_resnet50", ("uwe",))


def _torchvision(name: str, strategies: Sequence[str], **options: Any) -> Case:
    network = partial(
        torchvision.models.get_model, name, weights_backbone=None, num_classes=3, **options
    )
    model = {"architecture": f"torchvision:{name}", "num_classes": 3}
    shown = f"`torchvision:{name}`" + ", saved with its auxiliary head" * bool(options)
    return Case(shown, state(network), model, strategies)


def of_huggingface() -> Iterator[Case]:
    """Folders of transformers, of every type."""
    for kind in sorted(SEMANTIC | UNIVERSAL):

        def save(folder: Path, kind: str = kind) -> Path:
            with contextlib.redirect_stderr(io.StringIO()):
                written(kind, folder)
            return folder

        strategies = MORE if kind in {"dpt", "segformer"} else FEW
        yield Case(f"`hf:FOLDER`, {kind}", save, {}, strategies)
        if kind in {"data2vec-vision", "eomt"}:
            yield Case(
                f"`hf:FOLDER`, {kind}, images of its size", save, {}, strategies, size=(60, 60)
            )
