"""The loss-prediction module: an auxiliary module, trained with the network, that predicts losses.

After Yoo and Kweon, "Learning Loss for Active Learning" (CVPR 2019), sections 3.2 and 3.3. There a
feature map is averaged over the image; here over any set of pixels, after the bilinear upsampling
that spreads it over them: the module then scores regions of every size in one pass, and a region
that is the whole image is scored as in the paper. In training the set is a crop's labelled pixels.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field, TypeAdapter
from torch import Tensor, nn

from segal.candidates.evidence import Units, Upsampling
from segal.functional.pooling import interpolation_matrix
from segal.system.sections import Result, Section, result_unless

_WIDTH = 128  # outputs of each map's linear layer, as in the paper's image classification


class LearningLossSettings(Section):
    """How a loss-prediction module is trained with the network.

    | setting | here | paper |
    |---|---|---|
    | weight | 1 | 1 (lambda) |
    | ranking | hinge | hinge (eq. 2) |
    | margin | 1 | 1 (xi) |
    | stop_gradient_after | 0.6 | 0.6 (120 of 200 epochs) |

    Attributes:
        weight: Factor of the module's loss beside the network's.
        ranking: What a pair costs: `hinge` (see `ranking_loss`), or `logistic`, as in RankCGAN and
            TA-VAAL (see `logistic_ranking_loss`).
        margin: By how much the predictions of a pair should differ, at least; of `hinge` alone.
        stop_gradient_after: From this fraction of the training's steps on the module's gradient no
            longer reaches the network; 0 for never at all, 1 to the end.
    """

    weight: Result[float] = Field(default=1.0, gt=0)
    ranking: Annotated[Literal["hinge", "logistic"], result_unless("hinge")] = "hinge"
    margin: Result[float] = Field(default=1.0, gt=0)
    stop_gradient_after: Result[float] = Field(default=0.6, ge=0, le=1)

    def loss(self, predicted: Tensor, losses: Tensor) -> Tensor:
        """What the predictions (n,) of a batch's losses (n,) cost, but for its weight."""
        if self.ranking == "logistic":
            return logistic_ranking_loss(predicted, losses)
        return ranking_loss(predicted, losses, self.margin)


def _switched(value: object) -> object:
    if isinstance(value, bool | str):
        return {} if TypeAdapter(bool).validate_python(value) else None
    return value


LearningLoss = Annotated[LearningLossSettings | None, BeforeValidator(_switched)]
"""A setting: `true` stands for the defaults, `false` for no such module."""


class LossPrediction(nn.Module):
    """From the means of several feature maps to one predicted loss (paper, figure 2b).

    A linear layer and a ReLU for each map; what they give is concatenated, and a last linear layer
    makes one number of it. Only the order of these numbers means something.

    Args:
        channels: Of each map.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(count, _WIDTH) for count in channels)
        self.output = nn.Linear(_WIDTH * len(channels), 1)

    def forward(self, means: Sequence[Tensor]) -> Tensor:
        """Predicted losses (...) from each map's means (..., D), in the parameters' dtype."""
        dtype, device = self.output.weight.dtype, self.output.weight.device.type
        # Small numbers and small products: half precision would save nothing.
        with torch.autocast(device, enabled=False):
            hidden = [
                layer(mean.to(dtype)).relu() for layer, mean in zip(self.maps, means, strict=True)
            ]
            predicted: Tensor = self.output(torch.cat(hidden, -1))
        return predicted[..., 0]

    def of_units(self, maps: Sequence[Tensor], units: Units, upsampling: Upsampling) -> Tensor:
        """Predicted losses of units, such as the regions of an image.

        Args:
            maps: (B, D, h, w) each, as `Evidence.maps`.
            units: What is scored.
            upsampling: How each map is spread over the image's pixels.

        Returns:
            (B, units) float64.
        """
        pooled = [units.pool(x, upsampling) for x in maps]
        predicted: Tensor = self([sums / counts[:, None] for sums, counts in pooled])
        return predicted.double()

    def of_pixels(self, maps: Sequence[Tensor], mask: Tensor, upsampling: Upsampling) -> Tensor:
        """Predicted losses of sets of pixels, one set in each image.

        Args:
            maps: (B, D, h, w) each, as `Evidence.maps`.
            mask: (B, H, W) bool; without a pixel the maps' means are 0.
            upsampling: How each map is spread over the image's pixels.

        Returns:
            (B,) in the parameters' dtype.
        """
        predicted: Tensor = self([mean_over_pixels(x, mask, upsampling) for x in maps])
        return predicted


def mean_over_pixels(x: Tensor, mask: Tensor, upsampling: Upsampling) -> Tensor:
    """Mean of an upsampled map over a set of pixels, without making the upsampled map.

    The weight of a cell in a pixel is that of the bilinear interpolation, so a cell's weight in the
    sum is the adjoint of the upsampling, applied to the set's indicator.

    Args:
        x: (B, D, h, w) map; half precision is raised to float32.
        mask: (B, H, W) bool.
        upsampling: How the map is spread over pixels; its size is at least (H, W).

    Returns:
        (B, D), differentiable by `x`; 0 where an image has no pixel in the set.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    sides = zip(x.shape[-2:], upsampling.size, mask.shape[-2:], strict=True)
    rows, columns = (
        _interpolation(cells, pixels, upsampling.align_corners)[:kept].to(x.device, dtype)
        for cells, pixels, kept in sides
    )
    with torch.autocast(x.device.type, enabled=False):
        indicator = mask.to(dtype)
        counts = indicator.sum((1, 2)).clamp(min=1)
        weights = rows.T @ indicator @ columns / counts[:, None, None]
        return torch.einsum("bdhw,bhw->bd", x.to(dtype), weights)


@lru_cache(maxsize=64)
def _interpolation(cells: int, pixels: int, align_corners: bool) -> Tensor:
    return interpolation_matrix(cells, pixels, align_corners)


def ranking_loss(predicted: Tensor, losses: Tensor, margin: float) -> Tensor:
    """Pairwise ranking hinge (paper, eq. 2), mean over the pairs of a batch (eq. 3).

    Neighbours form pairs: the first with the second, the third with the fourth; the last of an odd
    number is left out. A pair costs `max(0, margin - s (p_i - p_j))`, where s is 1 if `l_i > l_j`,
    and -1 otherwise.

    Args:
        predicted: (n,) p.
        losses: (n,) l, the true losses; they are constants.
        margin: By how much the predictions should differ, at least.

    Returns:
        A scalar; 0, with a gradient of 0, where there is no pair.
    """
    ahead = _ahead(predicted, losses)
    return (margin - ahead).clamp(min=0).mean() if len(ahead) else predicted.sum() * 0.0


def logistic_ranking_loss(predicted: Tensor, losses: Tensor) -> Tensor:
    """Cross-entropy of which of a pair has the larger loss; sigmoid(p_i - p_j) is its probability.

    The ranking loss of RankCGAN (Saquil, Kim and Hall, 2018), which TA-VAAL (Kim et al., CVPR 2021)
    predicts losses by. Pairs, arguments and what is returned are as of `ranking_loss`.
    """
    ahead = _ahead(predicted, losses)
    return F.softplus(-ahead).mean() if len(ahead) else predicted.sum() * 0.0


def _ahead(predicted: Tensor, losses: Tensor) -> Tensor:
    """(pairs,): by how much the prediction of the larger loss is the larger one."""
    pairs = len(predicted) // 2
    p, target = (values[: 2 * pairs].view(pairs, 2) for values in (predicted, losses.detach()))
    sign = torch.where(target[:, 0] > target[:, 1], 1.0, -1.0).to(p)
    return sign * (p[:, 0] - p[:, 1])
