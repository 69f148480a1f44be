"""VAAL's signal: how much a candidate looks like what is labelled already."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.data.image_sets import ImageSet
from segal.models.vaal import SIDE, Vaal, VaalTraining, train_vaal
from segal.signals.base import Need, Workbench
from segal.signals.crops import Crop, cut, draw_pairs, shrink
from segal.system.console import Advance, bar

__all__ = ["LooksLabelled", "VaalTraining"]

_CHUNK = 256  # crops that go through the networks at once


@dataclass(frozen=True)
class LooksLabelled:
    """The discriminator's probability of being labelled (Sinha et al., ICCV 2019, section 3).

    A VAE and a discriminator are trained before the pass on crops of labelled and of unlabelled
    pixels. A crop is of the size of a candidate: of a random cell of a random one of the pass's
    grids, cut down to the labelled box that it is drawn from, which may be smaller (or much
    larger, such as a whole image). Every labelled crop comes with an unlabelled one of the same
    size, so that size cannot tell them apart; crops of the pool never overlap what is bought. All
    are shrunk to 64 x 64 pixels by area, or enlarged, and so is what is measured. One pair of
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

    def prepare(self, bench: Workbench) -> "_Meter":
        """Trains the networks.

        Raises:
            SegalError: If nothing is labelled, nothing unlabelled, an image cannot be read, or the
                training diverges.
        """
        generator = torch.Generator().manual_seed(bench.seed)
        labelled, pool = bench.images("labelled"), bench.images("pool")
        pairs = draw_pairs(labelled, pool, bench.regions, self.crops, generator)
        channels = len(bench.model.get_buffer("mean"))
        with bar("Cutting crops") as advance:
            banks = [
                _bank(images, [pair[half] for pair in pairs], channels, bench.workers, advance)
                for half, images in enumerate((labelled, pool))
            ]
        device = bench.model.device
        with bar("Training VAAL") as advance:
            vaal = train_vaal(banks[0], banks[1], self.training, generator, device, advance)
        bench.note(_outcome(vaal, banks, device))
        return _Meter(vaal, bench.model.get_buffer("mean"), bench.model.get_buffer("std"))


@dataclass(frozen=True, eq=False)
class _Meter:
    vaal: Vaal
    mean: Tensor
    std: Tensor
    catch: ClassVar[tuple[str, ...]] = ()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64 in [0, 1]."""
        if evidence.inputs is None:
            raise ValueError("the evidence has no inputs")
        boxes = units.boxes().tolist()
        measured = []
        # Image by image: what an image measures does not depend on the batch that it is in.
        for normalised in evidence.inputs:
            pixels = (normalised.float() * self.std + self.mean).clamp_(0, 1)
            logits = [
                self.vaal.logits(
                    torch.stack([shrink(pixels[:, y0:y1, x0:x1]) for x0, y0, x1, y1 in chunk])
                )
                for chunk in (boxes[i : i + _CHUNK] for i in range(0, len(boxes), _CHUNK))
            ]
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
def _outcome(vaal: Vaal, banks: Sequence[Tensor], device: torch.device) -> str:
    """How well the discriminator tells the crops that it was trained on."""
    right = 0
    for bank, sign in zip(banks, (1, -1), strict=True):
        for start in range(0, len(bank), _CHUNK):
            crops = bank[start : start + _CHUNK].to(device).float() / 255
            right += int((sign * vaal.logits(crops) > 0).sum())
    share = 100 * right / sum(len(bank) for bank in banks)
    return (
        f"vaal: the discriminator is right about {share:.0f} % of the crops that it was trained "
        "on; 50 % is chance"
    )
