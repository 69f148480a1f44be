"""Signals of passes with dropout switched on: how uncertain and how divided they are."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence, Reduction, Units
from segal.candidates.kept import Images
from segal.functional.divergence import DisagreementSum
from segal.models.dropout import Drawn, check_dropout, dropout_passes
from segal.models.wrapped import FURTHER_PASSES, Model
from segal.signals.base import Need, Pooled, Workbench
from segal.system.machine import Precision, autocast

DropoutName = Literal["mc_dropout", "bald"]
_ROWS: dict[DropoutName, int] = {"mc_dropout": 0, "bald": 1}


@dataclass(frozen=True)
class DropoutValue(Pooled):
    """An uncertainty over T passes with dropout, pooled over each candidate.

    Masks are drawn for each image on its own, from a generator seeded by the pass's seed, the
    image's path, the module and the number of the pass, and images go through the network one by
    one: neither batch size nor workers nor the order of files changes a byte. Rows of a table of
    features go together, as they do in the pass itself.

    Attributes:
        name: `mc_dropout`, the entropy of the mean H(mean_t p_t), or `bald`, that less the mean
            entropy, H(mean_t p_t) - mean_t H(p_t); in nats, in [0, log C].
        samples: T, the number of passes.
        reduction: How a candidate's pixels become one number (mean by default).
    """

    name: DropoutName
    samples: int = 10
    reduction: Reduction = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `bald-10`, or `bald-10-max`."""
        column = f"{self.name}-{self.samples}"
        return column if self.reduction == "mean" else f"{column}-{self.reduction}"

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no dropout that changes its logits."""
        check_dropout(model)

    def prepare(self, bench: Workbench) -> "_Meter":
        """Checks the network.

        Raises:
            SegalError: As `check`.
        """
        bench.once(("dropout is there",), lambda: self.check(bench.model))
        return _Meter(self, bench.model, bench.seed, bench.precision)


@dataclass(frozen=True, eq=False)
class _Meter:
    """A `DropoutValue` that is ready."""

    signal: DropoutValue
    model: Model
    seed: int
    precision: Precision
    catch: ClassVar[tuple[str, ...]] = (FURTHER_PASSES,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        key = ("dropout", self.signal.samples, self.seed)
        both = evidence.once(key, lambda: self._maps(evidence))
        elements = both[:, _ROWS[self.signal.name], None]
        if self.signal.reduction == "max":
            return units.pool_max(elements)[..., 0].double()
        sums, counts = units.pool(evidence.once((*key, self.signal.name), elements.double))
        return sums[..., 0] if self.signal.reduction == "sum" else sums[..., 0] / counts

    def _maps(self, evidence: Evidence) -> Tensor:
        """(B, 2, H, W): entropy of the mean, and that less the mean entropy."""
        if evidence.inputs is None:
            raise ValueError("evidence: expected the network's inputs, got none")
        inputs, paths = evidence.inputs, evidence.images
        count = len(inputs) if inputs.shape[2:] == (1, 1) else 1
        with autocast(inputs.device, self.precision):
            parts = [
                self._map(paths[i : i + count], inputs[i : i + count])
                for i in range(0, len(inputs), count)
            ]
        return torch.cat(parts)

    def _map(self, paths: Sequence[str], images: Images) -> Tensor:
        """(B, 2, H, W), of images that go together."""
        total = DisagreementSum()
        with dropout_passes(self.model) as forward:
            for number in range(self.signal.samples):
                each = [drawn(self.seed, path, number) for path in paths]
                total.add(forward(images, partial(_Together, each)).transpose(0, 1))
        return torch.stack(total.entropies(), 1)


class _Together:
    """Draws for every image of a batch what is drawn for it alone.

    Args:
        each: Of the images, as of `drawn`.
        call: Module and call.
    """

    def __init__(self, each: Sequence[Drawn], call: str) -> None:
        self._draws = [of_image(call) for of_image in each]

    def random(self, size: tuple[int, ...], dtype: type[np.float32]) -> NDArray[np.float32]:
        """Numbers of [0, 1), (B, ...)."""
        one = (1, *size[1:])
        return np.concatenate([draws.random(one, dtype) for draws in self._draws])


def drawn(seed: int, path: str, number: int) -> Drawn:
    """Generators of the masks of a pass over an image, for `segal.models.dropout`.

    Args:
        seed: Of the scan.
        path: Of the image.
        number: Of the pass.
    """

    def generator(call: str) -> np.random.Generator:
        key = "\0".join((str(seed), path, str(number), call)).encode("utf-8", "surrogateescape")
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "little"))

    return generator
