"""TA-VAAL: VAAL, told how large a loss the network expects of each candidate."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.signals.ta_vaal import RankedLooksLabelled
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks
from segal.strategies.vaal import VaalNetworks


@dataclass(frozen=True, config=PARAMETERS)
class TaskAwareVariationalAdversarial(VaalNetworks):
    """VAAL whose VAE and discriminator are given the rank of the predicted loss (TA-VAAL).

    The network is trained with a loss-prediction module, `train.learning_loss=true`; the paper
    trains it by RankCGAN's ranking loss, `train.learning_loss.ranking=logistic`. Before the pass a
    VAE and a discriminator are trained as for `vaal`, and with a crop's code the decoder and the
    discriminator are given the normalised rank of its predicted loss. Picked is what looks least
    labelled, given its rank. The paper scores whole images, here candidates of any region size are
    scored alike. The authors' public code (for CIFAR) and what is here:

    | parameter              | code                           | here                            |
    |------------------------|--------------------------------|---------------------------------|
    | ranking loss           | logistic (RankCGAN's)          | hinge by default, or logistic   |
    | rank for the decoder   | sigmoid of the prediction      | sigmoid of it, less the mean's  |
    | ... the discriminator  | the prediction                 | as for the decoder              |
    | ... in the first step  | drawn at random                | as in all others                |
    | discriminator          | 3 layers of 512                | 5 layers of 128, as `vaal`      |
    | reconstruction error   | squared, mean over values      | squared, sum over values        |
    | divergence             | mean over codes' values        | sum over them, mean over crops  |
    | length of training     | 100 epochs                     | `steps`: 600                    |
    | VAE's steps in a turn  | 1                              | 1                               |
    | `batch_size`           | 128                            | 16 (of either set)              |
    | `latent`               | 32                             | 32                              |
    | `beta`, `adversary`    | 1, 1                           | 1, 1                            |
    | learning rates         | 5e-4, 5e-4                     | 5e-4, 5e-4                      |
    | picked from            | 10,000 images, drawn at random | the whole pool                  |

    What differs beside the ranks is as in `vaal`, which says why.

    Attributes:
        steps: As of `vaal`, and so are all others.
        batch_size: Crops of the labelled set in a batch, and as many of the pool.
        crops: Pairs of crops that batches are drawn from.
        latent: Size of the VAE's code.
        beta: Weight of the divergence.
        adversary: Weight of fooling the discriminator.
        vae_rate: Learning rate of the VAE.
        discriminator_rate: Learning rate of the discriminator.
    """

    name: ClassVar[str] = "ta_vaal"
    direction: ClassVar[Direction | None] = "lower"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "TA-VAAL: Kim, Park, Kim and Chun (CVPR 2021)"

    @property
    def _signal(self) -> RankedLooksLabelled:
        return RankedLooksLabelled(self.training, self.crops)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the discriminator's output; images with crops are run before it."""
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
