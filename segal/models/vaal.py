"""VAAL's networks and their training: a VAE, and a discriminator on its latent code.

What is known of a crop beside its pixels may be given to the decoder and to the discriminator with
the code: TA-VAAL (Kim, Park, Kim and Chun, CVPR 2021) gives the rank of its predicted loss.

Equation numbers are those of Sinha, Ebrahimi and Darrell, "Variational Adversarial Active Learning"
(ICCV 2019). A lower bound of both sets' likelihood trains the VAE, and so does fooling the
discriminator into taking every crop for a labelled one; the discriminator learns to tell them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.errors import SegalError

SIDE = 64
"""Side of the VAE's input, in pixels."""

_WIDTH = 16  # channels after the first convolution; each of the three others doubles them
_CELLS = SIDE // 16  # side of the encoder's last map
_HIDDEN = 128

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class VaalTraining:
    """How both networks are trained.

    Attributes:
        steps: Of Adam for either network; they take turns.
        batch_size: Crops of the labelled set in a batch, and as many of the unlabelled one.
        latent: Size of the latent code.
        beta: Weight of the Kullback-Leibler divergence (eq. 1).
        adversary: Weight of fooling the discriminator (lambda_2 of eq. 3; lambda_1 is 1).
        vae_rate: Learning rate of the VAE.
        discriminator_rate: Learning rate of the discriminator.
    """

    steps: int = 600
    batch_size: int = 16
    latent: int = 32
    beta: float = 1.0
    adversary: float = 1.0
    vae_rate: float = 5e-4
    discriminator_rate: float = 5e-4

    @property
    def name(self) -> str:
        """Tells it apart from every other; good as a part of a file's name."""
        return (
            f"{self.steps}-{self.batch_size}-{self.latent}-{self.beta!r}-{self.adversary!r}-"
            f"{self.vae_rate!r}-{self.discriminator_rate!r}"
        )


class Vae(nn.Module):
    """A convolutional VAE of crops of `SIDE` x `SIDE` pixels.

    There is no batch normalisation: a score must not depend on the candidates beside it, and
    batches of either set, normalised apart, would lose the brightness that they differ by.

    Args:
        latent: Size of the latent code.
        channels: Of the crops.
        known: Numbers that the decoder is given beside the code.
    """

    def __init__(self, latent: int, channels: int = 3, known: int = 0) -> None:
        super().__init__()
        widths = [_WIDTH * 2**i for i in range(4)]
        cells = widths[-1] * _CELLS**2
        down: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        self.encoder = nn.Sequential(*down, nn.Flatten())
        self.mean = nn.Linear(cells, latent)
        self.log_variance = nn.Linear(cells, latent)
        up: list[nn.Module] = [
            nn.Linear(latent + known, cells),
            nn.Unflatten(1, (-1, _CELLS, _CELLS)),
        ]
        for before, after in zip(widths[::-1], [*widths[-2::-1], channels], strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.decoder = nn.Sequential(*up)

    def encode(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the code, (n, latent) each; crops (n, channels, SIDE, SIDE)."""
        features = self.encoder(crops)
        return self.mean(features), self.log_variance(features)

    def decode(self, code: Tensor) -> Tensor:
        """(n, channels, SIDE, SIDE) crops from (n, latent + known) codes."""
        crops: Tensor = self.decoder(code)
        return crops


class Discriminator(nn.Sequential):
    """Logits of being labelled, (n,), from (n, latent + known) codes: a perceptron of five layers.

    Args:
        latent: Size of the latent code.
        known: Numbers that come with it.
    """

    def __init__(self, latent: int, known: int = 0) -> None:
        layers: list[nn.Module] = []
        for before in (latent + known, _HIDDEN, _HIDDEN, _HIDDEN):
            layers += [nn.Linear(before, _HIDDEN), nn.ReLU()]
        super().__init__(*layers, nn.Linear(_HIDDEN, 1), nn.Flatten(0))


@dataclass(frozen=True, eq=False)
class Vaal:
    """Both networks.

    Attributes:
        vae: The VAE.
        discriminator: The discriminator.
    """

    vae: Vae
    discriminator: Discriminator

    def logits(self, crops: Tensor, known: Tensor | None = None) -> Tensor:
        """Logits (n,) of being labelled, from the mean of the code; nothing is sampled.

        Args:
            crops: (n, channels, SIDE, SIDE), in [0, 1].
            known: (n, k) what is known of them, as in the training; None for nothing.
        """
        known = crops.new_empty(len(crops), 0) if known is None else known
        logits: Tensor = self.discriminator(torch.cat([self.vae.encode(crops)[0], known], 1))
        return logits


def negative_elbo(
    crops: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor, beta: float
) -> Tensor:
    """The negative of one expectation of eq. 1: reconstruction and beta times the divergence.

    The likelihood is a Gaussian of variance 1/2 around the decoded crop, so that its negative
    logarithm is the sum of squared errors, up to a constant.

    Args:
        crops: (n, ...), what was encoded.
        decoded: Likewise, what came back.
        mean: (n, latent), of the code.
        log_variance: (n, latent), of the code.
        beta: Weight of the divergence of N(mean, variance) from N(0, 1).

    Returns:
        A scalar in nats, the mean over crops.
    """
    error = (crops - decoded).square().flatten(1).sum(1)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
    return (error + beta * divergence).mean()


def adversarial_loss(labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """What the VAE is charged for crops that are taken for unlabelled ones (eq. 2), from logits."""
    return F.softplus(-labelled).mean() + F.softplus(-unlabelled).mean()


def discriminator_loss(labelled: Tensor, unlabelled: Tensor) -> Tensor:
    """Cross-entropy of the discriminator, labelled 1 and unlabelled 0 (eq. 4), from logits."""
    return F.softplus(-labelled).mean() + F.softplus(unlabelled).mean()


def train_vaal(
    labelled: Tensor,
    unlabelled: Tensor,
    training: VaalTraining,
    generator: torch.Generator,
    device: torch.device,
    progress: Progress | None = None,
    known: tuple[Tensor, Tensor] | None = None,
) -> Vaal:
    """Trains both networks from scratch.

    Args:
        labelled: (n, channels, SIDE, SIDE) uint8 crops, n at least 1.
        unlabelled: (m, channels, SIDE, SIDE) uint8 crops, m at least 1.
        training: How.
        generator: The only source of randomness, on the CPU: initial weights, batches, noise.
        device: Where to train.
        progress: Called after each step with the steps done, all steps, and a few words.
        known: (n, k) and (m, k) float32, what is known of the crops; None for nothing.

    Returns:
        The networks on `device`; their weights take no gradient any more.

    Raises:
        SegalError: If a loss is not finite.
    """
    if known is None:
        known = torch.empty(len(labelled), 0), torch.empty(len(unlabelled), 0)
    vaal = _initial(training.latent, generator, device, labelled.shape[1], known[0].shape[1])
    vae_optimizer = torch.optim.Adam(vaal.vae.parameters(), lr=training.vae_rate)
    discriminator_optimizer = torch.optim.Adam(
        vaal.discriminator.parameters(), lr=training.discriminator_rate
    )
    for step in range(1, training.steps + 1):
        rows = [_batch(s, training.batch_size, generator) for s in (labelled, unlabelled)]
        crops, beside = (
            torch.cat([one[drawn] for one, drawn in zip(each, rows, strict=True)]).to(device)
            for each in ((labelled, unlabelled), known)
        )
        crops = crops.float() / 255
        noise = torch.randn(len(crops), training.latent, generator=generator).to(device)
        with torch.enable_grad():
            loss = _step(vae_optimizer, _vae_objective(vaal, crops, beside, noise, training))
            told = _step(discriminator_optimizer, _discriminator_objective(vaal, crops, beside))
        if not (math.isfinite(loss) and math.isfinite(told)):
            raise _diverged(step, training, loss, told)
        if progress is not None:
            progress(step, training.steps, f"discriminator {told:.2f} of 1.39")
    for network in (vaal.vae, vaal.discriminator):
        network.requires_grad_(False).eval()
    return vaal


def _vae_objective(
    vaal: Vaal, crops: Tensor, known: Tensor, noise: Tensor, training: VaalTraining
) -> Tensor:
    """Eq. 3; the first half of the crops is labelled."""
    mean, log_variance = vaal.vae.encode(crops)
    code = mean + noise * (0.5 * log_variance).exp()
    decoded = vaal.vae.decode(torch.cat([code, known], 1))
    # Both halves are of one size, so the sum of their means is twice the mean of all.
    bound = 2 * negative_elbo(crops, decoded, mean, log_variance, training.beta)
    labelled, unlabelled = vaal.discriminator(torch.cat([mean, known], 1)).chunk(2)
    return bound + training.adversary * adversarial_loss(labelled, unlabelled)


def _discriminator_objective(vaal: Vaal, crops: Tensor, known: Tensor) -> Tensor:
    with torch.no_grad():
        mean, _ = vaal.vae.encode(crops)
    labelled, unlabelled = vaal.discriminator(torch.cat([mean, known], 1)).chunk(2)
    return discriminator_loss(labelled, unlabelled)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    # The gradients that the other network got on the way are dropped before its own step.
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def _batch(crops: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """(size,) positions of crops."""
    return torch.randint(len(crops), (size,), generator=generator)


def _initial(
    latent: int,
    generator: torch.Generator,
    device: torch.device,
    channels: int = 3,
    known: int = 0,
) -> Vaal:
    """Networks with weights from `generator`; torch's own random state is not touched."""
    with torch.device("meta"):
        vaal = Vaal(Vae(latent, channels, known), Discriminator(latent, known))
    for network in (vaal.vae, vaal.discriminator):
        network.to_empty(device="cpu")
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
    nn.init.zeros_(vaal.vae.log_variance.weight)  # a variance of 1 to begin with
    vaal.vae.to(device)
    vaal.discriminator.to(device)
    return vaal


def _diverged(step: int, training: VaalTraining, loss: float, told: float) -> SegalError:
    return SegalError(
        f"VAAL's training diverged at step {step} of {training.steps}",
        expected="finite losses",
        got=f"{loss} of the VAE, {told} of the discriminator",
        remedy="give smaller learning rates: strategy.vae_rate and strategy.discriminator_rate",
    )
