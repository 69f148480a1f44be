"""VAAL's signal: how much a candidate looks like what is labelled already."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.data.image_sets import ImageSet, SetName
from segal.errors import SegalError
from segal.models.vaal import SIDE, Vaal, VaalTraining, train_vaal
from segal.models.wrapped import PIXELS, Model
from segal.signals.base import Need, Workbench
from segal.signals.crops import Crop, cut, draw_pairs, in_pixels, shrink
from segal.system.console import Advance, bar

__all__ = ["LooksLabelled", "VaalTraining"]

Pair = tuple[Crop, Crop]
"""A labelled crop and one of the pool."""

SETS: tuple[SetName, SetName] = ("labelled", "pool")
"""Whose crops a pair holds."""

_CHUNK = 256  # crops that go through the networks at once


@dataclass(frozen=True)
class LooksLabelled:
    """The discriminator's probability of being labelled (Sinha et al., ICCV 2019, section 3).

    A VAE and a discriminator are trained before the pass on crops of labelled and of unlabelled
    pixels. A crop is of the size of a candidate: of a random cell of a random one of the pass's
    grids, cut down to the labelled box that it is drawn from, which may be smaller (or much
    larger, such as a whole image). Every labelled crop comes with an unlabelled one of the same
    size, so that size cannot tell them apart; crops of the pool never overlap what is bought. All
    are shrunk to 64 x 64 pixels by area, or enlarged, and so is what is measured; an image that is
    bought as a whole is shown as a whole. One pair of
    networks serves all region sizes of a pass.

    Crops are cut once, at first, and kept as 8 bits: of RGB, 24 kB a pair, 49 MB for 2000 pairs. An
    image is read at most once for either set. Batches are drawn from these crops.

    Attributes:
        training: How the networks are trained.
        crops: Pairs of crops to train on.
    """

    training: VaalTraining = field(default_factory=VaalTraining)
    crops: int = 2000
    needs: ClassVar[frozenset[Need]] = frozenset({Need("labelled", False), Need("pool", False)})
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """Column name."""
        return f"vaal-{self.crops}-{self.training.name}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network takes no pictures."""
        check_pictures(model, "vaal")

    def prepare(self, bench: Workbench) -> "VaalMeter":
        """Trains the networks.

        Raises:
            SegalError: If nothing is labelled, nothing unlabelled, an image cannot be read, or the
                training diverges.
        """
        generator = torch.Generator().manual_seed(bench.seed)
        pairs = crop_pairs(bench, self.crops, generator)
        vaal = vaal_of_crops(bench, pairs, self.training, generator, "vaal")
        return VaalMeter(vaal, bench.model.get_buffer("mean"), bench.model.get_buffer("std"))


def check_pictures(model: Model, asking: str) -> None:
    """Raises a SegalError if a network takes no pictures.

    Args:
        model: The network.
        asking: Who asks for them.
    """
    if model.spec.input_channels is not None:
        raise SegalError(
            f"{asking}: it learns from pictures, and a table of features has none",
            expected="images, as files or as an array (N, H, W, channels)",
            got=f"rows of {model.spec.input_channels} features",
            remedy="choose another strategy, such as coreset or uwe",
        )


def crop_pairs(bench: Workbench, count: int, generator: torch.Generator) -> list[Pair]:
    """Draws crops of what is labelled and of the pool; see `draw_pairs`."""
    labelled, pool = bench.images("labelled"), bench.images("pool")
    return draw_pairs(labelled, pool, bench.regions, count, generator)


def vaal_of_crops(
    bench: Workbench,
    pairs: Sequence[Pair],
    training: VaalTraining,
    generator: torch.Generator,
    name: str,
    known: tuple[Tensor, Tensor] | None = None,
) -> Vaal:
    """Trains a VAE and a discriminator on crops, and notes how well that went.

    Args:
        bench: The workbench.
        pairs: The crops.
        training: How.
        generator: The only source of randomness.
        name: Of the strategy, for the note.
        known: As of `train_vaal`.
    """
    channels, device = len(bench.model.get_buffer("mean")), bench.model.device
    with bar("Cutting crops") as advance:
        banks = [
            _bank(
                bench.images(of), [pair[half] for pair in pairs], channels, bench.workers, advance
            )
            for half, of in enumerate(SETS)
        ]
    with bar("Training VAAL") as advance:
        vaal = train_vaal(banks[0], banks[1], training, generator, device, advance, known)
    bench.note(_outcome(vaal, banks, device, name, known))
    return vaal


@dataclass(frozen=True, eq=False)
class VaalMeter:
    """The discriminator at work.

    Attributes:
        vaal: The trained networks.
        mean: Of the network's input, as its wrapper has it.
        std: Likewise.
        known: (B, units, k) what the networks are given beside a batch's crops; None for nothing.
        caught: As `catch` of a `Meter`, for `known`.
    """

    vaal: Vaal
    mean: Tensor
    std: Tensor
    known: Callable[[Evidence, Units], Tensor] | None = None
    caught: tuple[str, ...] = ()

    @property
    def catch(self) -> tuple[str, ...]:
        """See `Meter.catch`: the images, beside what `known` is made of."""
        return (*self.caught, PIXELS)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64 in [0, 1]."""
        if not isinstance(evidence.inputs, Tensor):
            raise ValueError("the evidence has no images")
        size = (evidence.inputs.shape[2], evidence.inputs.shape[3])
        boxes = [in_pixels(tuple(box), evidence.size, size) for box in units.boxes().tolist()]
        known = None if self.known is None else self.known(evidence, units)
        measured = []
        # Image by image: what an image measures does not depend on the batch that it is in.
        for row, normalised in enumerate(evidence.inputs):
            pixels = (normalised.float() * self.std + self.mean).float().clamp_(0, 1)
            logits = []
            for start in range(0, len(boxes), _CHUNK):
                some = slice(start, start + _CHUNK)
                crops = [shrink(pixels[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in boxes[some]]
                beside = None if known is None else known[row, some]
                logits.append(self.vaal.logits(torch.stack(crops), beside))
            # In float64 no two logits of float32 that differ below 0 have the same sigmoid.
            measured.append(torch.cat(logits).double().sigmoid())
        return torch.stack(measured)


def _bank(
    images: ImageSet, crops: Sequence[Crop], channels: int, workers: int, advance: Advance
) -> Tensor:
    """(n, channels, SIDE, SIDE) uint8."""
    bank = torch.empty(len(crops), channels, SIDE, SIDE, dtype=torch.uint8)
    count = len({image for image, _ in crops})
    for done, (rows, some) in enumerate(cut(images, crops, workers), start=1):
        bank[rows] = some
        advance(done, count)
    return bank


@torch.no_grad()
def _outcome(
    vaal: Vaal,
    banks: Sequence[Tensor],
    device: torch.device,
    name: str,
    known: tuple[Tensor, Tensor] | None,
) -> str:
    """How well the discriminator tells the crops that it was trained on."""
    right = 0
    for half, (bank, sign) in enumerate(zip(banks, (1, -1), strict=True)):
        for start in range(0, len(bank), _CHUNK):
            some = slice(start, start + _CHUNK)
            crops = bank[some].to(device).float() / 255
            beside = None if known is None else known[half][some].to(device)
            right += int((sign * vaal.logits(crops, beside) > 0).sum())
    share = 100 * right / sum(len(bank) for bank in banks)
    return (
        f"{name}: the discriminator is right about {share:.0f} % of the crops that it was trained "
        "on; 50 % is chance"
    )
