"""Brings a linear last layer to the optimum of its loss, which is one: see `fit_softmax`."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from segal.data.labelled import LabelledDataset
from segal.errors import SegalError
from segal.functional.labels import class_indices, has_class, keep_regions
from segal.functional.pooling import at_pixels
from segal.functional.softmax_regression import Regression, fit_softmax
from segal.models.linear_segmenter import Standardise
from segal.models.wrapped import FEATURES, Model
from segal.system.machine import autocast
from segal.training.sampling import LabelledRegions
from segal.training.settings import TrainSettings

_PIXELS = 7  # a stream of random numbers, beside those of segal.training.loop


def linear_head(model: Model, layers: str) -> nn.Conv2d:
    """The last layer, if it is linear, and all that is trained.

    Args:
        model: The network.
        layers: As `train.layers`.

    Raises:
        SegalError: If more is trained, or it looks at more than one cell, or its outputs are not
            logits of one class each.
    """
    head = model.head
    own = {id(parameter) for parameter in head.parameters()}
    others = [p for p in model.cut(layers).trained_parameters() if id(p) not in own]
    affine = model.tail("last").affine
    plain = affine is not None and affine.linear and not len(model.after_head())  # type: ignore[arg-type]
    if others or not plain:
        raise SegalError(
            f"train.optimizer: lbfgs, for layers {layers!r} of {model.spec.title}",
            expected="nothing to train but a 1 x 1 convolution, or a linear layer, with an output "
            "for each of the classes, of which an element has one",
            got=f"{sum(p.numel() for p in others)} further parameters"
            if others
            else "a last layer of another kind",
            remedy="give train.layers=last, or train.optimizer=adamw",
        )
    return head


def fit(
    model: Model,
    dataset: LabelledDataset,
    regions: LabelledRegions,
    settings: TrainSettings,
    *,
    seed: int,
    class_weights: Tensor | None,
    progress: Callable[[int, int, float], None] | None,
) -> tuple[Regression, float]:
    """Fits the last layer of a network in place; it is left in `eval()` mode.

    Args:
        model: The network, on the device where it runs.
        dataset: Images and labels.
        regions: What of it is labelled.
        settings: Of the training.
        seed: Of the sample of elements.
        class_weights: (C,) what labelled elements of each class weigh; None for alike.
        progress: As of `segal.training.loop.train`.

    Returns:
        The fit, and the seconds that it took.

    Raises:
        SegalError: If the optimum is not reached.
    """
    started = time.perf_counter()
    head = linear_head(model, settings.layers)
    model.eval()
    standardise = next((m for m in model.network.modules() if isinstance(m, Standardise)), None)
    if standardise is not None:
        standardise.mean.zero_()
        standardise.scale.fill_(1)
    x, y = sample_elements(model, dataset, regions, settings, seed)
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1).reciprocal()
    weights = None if class_weights is None else class_weights.to(y.device).double()[y]
    found = fit_softmax(
        x.sub_(mean).mul_(scale),
        y,
        model.spec.num_classes,
        l2=settings.weight_decay,
        weights=weights,
        gradient_norm=settings.gradient_norm,
        steps=settings.iterations,
        progress=lambda step, loss: progress and progress(step, settings.iterations, loss),
    )
    if found.gradient_norm > settings.gradient_norm:
        raise SegalError(
            f"the optimum was not reached in {found.steps} steps",
            expected=f"a gradient of norm {settings.gradient_norm:g} at most",
            got=f"{found.gradient_norm:.3g}",
            remedy="give more train.iterations, or a larger train.gradient_norm or weight_decay",
        )
    weight, bias = found.weight, found.bias
    if standardise is None:  # the network has no place for them: the layer takes them in
        weight = weight * scale
        bias = bias - weight @ mean
    else:
        standardise.mean.copy_(mean)
        standardise.scale.copy_(scale)
    with torch.no_grad():
        head.weight.copy_(weight[:, :, None, None])
        assert head.bias is not None
        head.bias.copy_(bias)
    return found, time.perf_counter() - started


def sample_elements(
    model: Model,
    dataset: LabelledDataset,
    regions: LabelledRegions,
    settings: TrainSettings,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Features of labelled elements, drawn without repetition, and their classes.

    Args:
        model: The network, in `eval()` mode.
        dataset: Images and labels.
        regions: What of it is labelled.
        settings: Of the training.
        seed: Of the draw.

    Returns:
        (n, D) float64, what the last layer is given, and (n,) int64.

    Raises:
        SegalError: If an image or a label cannot be read.
    """
    images = np.unique(regions.images).tolist()

    def label_of(image: int) -> Tensor:
        kept = keep_regions(dataset.read_label(image), regions.of_image(image))
        return class_indices(torch.from_numpy(kept))

    ends = np.cumsum([int(has_class(label_of(image)).sum()) for image in images])
    count = min(settings.pixels, int(ends[-1]))
    generator = np.random.default_rng([seed, _PIXELS])
    drawn = np.sort(generator.choice(int(ends[-1]), count, replace=False, shuffle=False))
    features, classes = [], []
    for image, end, start in zip(images, ends, [0, *ends[:-1]], strict=True):
        own = drawn[(drawn >= start) & (drawn < end)] - start
        if not len(own):
            continue
        label = label_of(image)
        y, x = (
            axis[torch.from_numpy(own)] for axis in torch.nonzero(has_class(label), as_tuple=True)
        )
        with torch.no_grad(), autocast(model.device, settings.precision):
            inputs = model.normalise(dataset.pool.batch([image]).to(model.device))
            evidence = model(inputs, (FEATURES,))
        spread = evidence.upsampling
        found = at_pixels(evidence.caught[0], y, x, spread.size, spread.align_corners)
        features.append(found)
        classes.append(label[y, x])
    return torch.cat(features), torch.cat(classes).to(features[0].device)
