"""TA-VAAL's signal: VAAL's, by networks that are told the rank of a candidate's predicted loss."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.candidates.regions import Boxes
from segal.data.image_sets import SetName
from segal.models.loss_prediction import LossPrediction
from segal.models.wrapped import FEATURE_MAPS, Model
from segal.signals.base import Need, Workbench
from segal.signals.crops import Crop
from segal.signals.learning_loss import ReadsLossPrediction
from segal.signals.vaal import (
    SETS,
    VaalMeter,
    VaalTraining,
    check_pictures,
    crop_pairs,
    vaal_of_crops,
)


@dataclass(frozen=True)
class RankedLooksLabelled(ReadsLossPrediction):
    """The discriminator's probability of being labelled, given the rank of the predicted loss.

    After Kim, Park, Kim and Chun, "Task-Aware Variational Adversarial Active Learning" (CVPR 2021).
    Crops are drawn as for VAAL (`LooksLabelled`), and the network's loss-prediction module predicts
    each one's loss in the image that it is cut from. The module learns an order, so that its
    predictions are right up to a constant: what the VAE's decoder and the discriminator are given
    is the sigmoid of a prediction less the mean over all crops. Of a module that learned by the
    logistic ranking loss this is the probability of a larger loss than that of the mean.

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
        return f"ta_vaal-{self.crops}-{self.training.name}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network takes no pictures, or has no feature maps."""
        check_pictures(model, "ta_vaal")
        super().check(model)

    def prepare(self, bench: Workbench) -> VaalMeter:
        """Trains the networks.

        Raises:
            SegalError: If the network predicts no losses; else as `LooksLabelled.prepare`.
        """
        module = self.module(bench.model)
        generator = torch.Generator().manual_seed(bench.seed)
        pairs = crop_pairs(bench, self.crops, generator)
        labelled, pool = (
            predicted_losses(bench, of, [pair[half] for pair in pairs], module)
            for half, of in enumerate(SETS)
        )
        mean = float(torch.cat([labelled, pool]).mean())
        known = ranks(labelled, mean), ranks(pool, mean)
        vaal = vaal_of_crops(bench, pairs, self.training, generator, "ta_vaal", known)

        def of_units(evidence: Evidence, units: Units) -> Tensor:
            return ranks(module.of_units(evidence.maps, units, evidence.upsampling), mean)

        mean_of_input, std = (bench.model.get_buffer(name) for name in ("mean", "std"))
        return VaalMeter(vaal, mean_of_input, std, of_units, (FEATURE_MAPS,))


def ranks(losses: Tensor, mean: float) -> Tensor:
    """(..., 1) float32 ranks in [0, 1] of predicted losses (...)."""
    return (losses.double() - mean).sigmoid().float()[..., None]


def predicted_losses(
    bench: Workbench, of: SetName, crops: Sequence[Crop], module: LossPrediction
) -> Tensor:
    """Predicts the loss of each crop in its image; only images with a crop are run.

    Args:
        bench: The workbench.
        of: The set that the crops are of.
        crops: n of them.
        module: What predicts.

    Returns:
        (n,) float64 on the CPU.
    """
    paths = bench.images(of).pool.paths
    positions: dict[str, list[int]] = {}
    for position, (image, _) in enumerate(crops):
        positions.setdefault(paths[image], []).append(position)
    losses = torch.empty(len(crops), dtype=torch.float64)
    with torch.no_grad():
        for visit in bench.visit(of, (FEATURE_MAPS,), {image for image, _ in crops}):
            evidence = visit.evidence
            for row, name in enumerate(evidence.images):
                maps = [x[row, None] for x in evidence.maps]
                units = Boxes(tuple(crops[position][1] for position in positions[name]))
                found = module.of_units(maps, units, evidence.upsampling)[0]
                losses[positions[name]] = found.cpu()
    return losses
