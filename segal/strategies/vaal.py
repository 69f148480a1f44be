"""VAAL: candidates that a discriminator takes for unlabelled."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.signals.vaal import LooksLabelled, VaalTraining
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, le=1e6)]


@dataclass(frozen=True, config=PARAMETERS)
class VaalNetworks:
    """Parameters of a VAE and a discriminator; `VariationalAdversarial` says what they are."""

    steps: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    crops: Annotated[int, Field(ge=1, le=100_000)] = 2000
    latent: Annotated[int, Field(ge=1, le=1024)] = 32
    beta: Weight = 1.0
    adversary: Weight = 1.0
    vae_rate: Rate = 5e-4
    discriminator_rate: Rate = 5e-4

    @property
    def training(self) -> VaalTraining:
        """How both are trained."""
        return VaalTraining(
            steps=self.steps,
            batch_size=self.batch_size,
            latent=self.latent,
            beta=self.beta,
            adversary=self.adversary,
            vae_rate=self.vae_rate,
            discriminator_rate=self.discriminator_rate,
        )


@dataclass(frozen=True, config=PARAMETERS)
class VariationalAdversarial(VaalNetworks):
    """Picks what looks least labelled to an adversary on a VAE's code (VAAL, eqs. 1-4).

    Before the pass a VAE and a discriminator are trained from scratch on crops of labelled and of
    unlabelled pixels; the score is the discriminator's probability of being labelled, and the
    lowest is picked. Classes and labels play no part in it, nor does the network that is being
    trained: a pass runs that all the same.

    The paper scores whole images; here a candidate of any region size is one, shrunk to the VAE's
    input. How crops are drawn is told by `segal.signals.vaal.LooksLabelled`. The paper trains for
    100 epochs; it was written for a GPU. The authors' public code (for CIFAR) and what is here:

    | parameter             | code                          | here                        |
    |-----------------------|-------------------------------|-----------------------------|
    | input, in pixels      | 32 x 32                       | 64 x 64                     |
    | channels of the VAE   | 128 to 1024, batch-normalised | 16 to 128, not normalised   |
    | discriminator         | 5 layers of 512               | 5 layers of 128             |
    | reconstruction error  | squared, mean over values     | squared, sum over values    |
    | divergence            | sum over a batch              | mean over crops             |
    | length of training    | 100 epochs of all images      | `steps`: 600                |
    | VAE's steps in a turn | 2                             | 1 (Algorithm 1)             |
    | `batch_size`          | 128                           | 16 (of either set)          |
    | `latent`              | 32                            | 32                          |
    | `beta`, `adversary`   | 1, 1                          | 1, 1                        |
    | learning rates        | 5e-4, 5e-4                    | 5e-4, 5e-4                  |

    The sum is eq. 1's likelihood. With a mean the divergence drowned it, and the codes of all crops
    became one. Beside a sum, some hundred nats a crop, an adversary of 1 is gentle.

    Attributes:
        steps: Steps of either network, taking turns, from 1 to 1,000,000.
        batch_size: Crops of the labelled set in a batch, and as many of the pool, from 1 to 4096.
        crops: Pairs of crops that batches are drawn from, from 1 to 100,000; 24 kB each.
        latent: Size of the VAE's code, from 1 to 1024.
        beta: Weight of the divergence (eq. 1).
        adversary: Weight of fooling the discriminator (lambda_2 of eq. 3; lambda_1 is 1).
        vae_rate: Learning rate of the VAE, above 0.
        discriminator_rate: Learning rate of the discriminator, above 0.
    """

    name: ClassVar[str] = "vaal"
    direction: ClassVar[Direction | None] = "lower"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "VAAL: Sinha, Ebrahimi and Darrell (ICCV 2019), eqs. 1-4"

    @property
    def _signal(self) -> LooksLabelled:
        return LooksLabelled(self.training, self.crops)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the discriminator's output."""
        yield [self._signal]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` candidates that look least labelled; scores are their probabilities."""
        scores = torch.from_numpy(table.values[self._signal.column])
        return Picks.best(scores, count, "lower")
