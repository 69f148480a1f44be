"""A selection from Python, by a checkpoint or by any function from images to logits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from os import PathLike
from typing import Any

import torch

from segal.config import SelectConfig, read_config
from segal.errors import SegalError
from segal.jobs.select import GivenNetwork, SelectionResult, run_selection
from segal.jobs.strategies import configure_selection
from segal.models.callables import Predict
from segal.models.spec import Framing, ModelSpec
from segal.models.wrapped import Model, wrapper_of
from segal.system.machine import find_device
from segal.tasks import find_task

_FLAGS = {
    "arch": "model.architecture",
    "encoder": "model.encoder",
    "num_classes": "model.num_classes",
    "mean": "model.mean",
    "std": "model.std",
    "input_scale": "model.input_scale",
    "tau": "strategy.tau",
    "device": "machine.device",
    "batch_size": "machine.batch_size",
    "workers": "machine.workers",
    "threads": "machine.threads",
}
"""Keys that have a name of their own on the command line; here they have the same."""
_NOISE = (224, 224, None)  # where there is no image to take the size from; the selection says why


def select(
    images: str | PathLike[str],
    *,
    out: str | PathLike[str],
    budget: str | int,
    predict: Predict | None = None,
    checkpoint: str | PathLike[str] | None = None,
    region: str | int | None = None,
    strategy: str | Mapping[str, Any] = "uwe",
    class_names: Sequence[str] = (),
    stride: int = 1,
    name: str = "",
    **keys: Any,
) -> SelectionResult:
    """Picks the regions, or the images, of a pool that are worth annotating next.

    The same work, run folder and files as of `segal select`: a call with the same arguments goes on
    where one that was stopped ended, and does nothing again that is done.

    A function is known by what it gives for an image of noise: with one that gives other numbers, a
    run folder is refused, not taken for done. Strategies that differentiate the network cannot work
    with a function, and say so before work starts; `uwe` and `coreset` ask for features.

    Args:
        images: Folder of images; for the task `classification` or `multilabel` also a CSV, or an
            `.npy` or `.npz` file of pictures or of features, as `segal select` takes it.
        out: The run's folder.
        budget: How much to buy, such as `5%` of the pixels, `10img`, `200` regions, or in
            detection `500box`.
        predict: The network as a function. It is given a batch (B, 3, h, w), float32, RGB from 0 to
            1 (less `mean`, divided by `std`, where these are given), on `device` (the CPU unless
            given), without gradients, and returns logits (B, C, h', w') of any resolution as a
            tensor or array; or (logits, features), features (B, D, h'', w'') at any resolution; or
            a dictionary or object with `logits` or `out`. One output, C = 1, is the logit of the
            second of two classes. For the tasks `classification` and `multilabel` logits are
            (B, C) and features (B, D); of a table of features it is given rows (B, D).
        checkpoint: The network as a file, instead.
        region: Region size: a side in pixels, `HxW`, or `image`; None for what the task usually
            buys, 512 pixels in segmentation.
        strategy: Its name, or a mapping of its `name` and parameters.
        class_names: Of the function's classes.
        stride: The function is given images whose sides are multiples of it, padded right and
            below; in segmentation only. Images that are classified are given as they are, or
            resized and cut to the square of `model={"input_side": 224}`.
        name: Tells functions apart that give the same for noise.
        **keys: Any other key of the configuration, a section as a mapping
            (`machine={"batch_size": 4}`), or an option's name on the command line (`batch_size=4`,
            `mean=(0.485, 0.456, 0.406)`, `labelled=["first/selection.csv"]`).

    Returns:
        The picks, in order, and the files that were written.

    Raises:
        SegalError: For anything that the user can mend, all mistakes at once where possible.

    Examples:
        >>> import cv2, numpy as np, segal, tempfile, torch
        >>> folder = tempfile.mkdtemp()
        >>> for i in range(3):  # black, grey and white
        ...     _ = cv2.imwrite(f"{folder}/{i}.png", np.full((64, 96, 3), 127 * i, np.uint8))
        >>> def predict(batch):  # is it bright? Not certain where it is grey.
        ...     brightness = batch.mean(1, keepdim=True)
        ...     return 9 * torch.cat([0.5 - brightness, brightness - 0.5], 1)
        >>> found = segal.select(
        ...     folder, predict=predict, out=f"{folder}-out",
        ...     region=32, budget=2, strategy="entropy", overlays=0,
        ... )
        >>> [(pick.image, pick.box) for pick in found.picks]
        [('1.png', (0, 0, 32, 32)), ('1.png', (32, 0, 64, 32))]
        >>> found.selection.name
        'selection.csv'
        >>> def classify(batch):  # the same, of whole images
        ...     return predict(batch).mean((2, 3))
        >>> found = segal.select(
        ...     folder, predict=classify, task="classification", out=f"{folder}-whole",
        ...     budget="1img", strategy="entropy", overlays=0,
        ... )
        >>> [pick.image for pick in found.picks]
        ['1.png']
    """
    if predict is not None and checkpoint is not None:
        raise SegalError(
            "the network is given twice",
            expected="predict or checkpoint",
            got="both",
            remedy="leave one of them out",
        )
    given = {
        "images": images,
        "out": out,
        "budget": budget,
        "checkpoint": checkpoint,
        **({} if region is None else {"region": region}),
        "strategy": strategy,
        **{_FLAGS.get(key, key): value for key, value in keys.items()},
    }
    flat = dict(_flat(given))
    if predict is not None:
        flat.setdefault("machine.device", "cpu")
    raw = read_config(None, [], flat)
    config, made = configure_selection(raw)
    if predict is None:
        return run_selection(config, made)
    network = _network(config, predict, class_names, stride, name)
    return run_selection(config, made, network)


def _flat(given: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Values by dotted keys, paths as text."""
    for key, value in given.items():
        if key == "strategy" and isinstance(value, Mapping):
            yield from ((f"strategy.{name}", inner) for name, inner in value.items())
        elif isinstance(value, Mapping) and key in {"machine", "model"}:
            yield from ((f"{key}.{name}", inner) for name, inner in value.items())
        elif key == "labelled" and isinstance(value, str | PathLike):
            yield key, [value]
        else:
            yield key, value


def _network(
    config: SelectConfig, predict: Predict, class_names: Sequence[str], stride: int, name: str
) -> GivenNetwork:
    """The function as a network, tried on an image of noise of the size of the first image.

    Raises:
        SegalError: If it fails, or does not give logits.
    """
    wrapper = wrapper_of(config.task)
    first = find_task(config.task).first_shape(config.images, config.reading)
    height, width, features = _NOISE if first is None else astuple(first)
    spec = _spec(config, wrapper, features, stride)
    network = wrapper.network_of(predict, spec)
    generator = torch.Generator().manual_seed(0)
    shape = (1, height, width, spec.channels)
    noise = torch.randint(256, shape, generator=generator).to(torch.uint8)
    if features is not None:
        noise = torch.randn(shape, generator=generator)
    model = wrapper(network, spec).to(find_device(config.machine.device))
    images = model.prepared(model.normalise(noise.to(model.device)))
    pixels = features is None
    try:
        classes, digest = network.look(images)
    except SegalError:
        raise
    except Exception as error:  # whatever the function raises
        raise SegalError(
            f"predict: it failed on an image of {height} x {width} pixels"
            if pixels
            else f"predict: it failed on the {features} features of an image",
            expected=f"a function of float32 tensors (B, {spec.channels}{', h, w' * pixels})",
            got=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300],
            remedy=f"try it on torch.rand(1, {spec.channels}{', h, w' * pixels})"
            + (pixels and "stride" in wrapper.fed_by)
            * "; give stride where sides must be multiples"
            + (pixels and "input_side" in wrapper.fed_by)
            * "; give model.input_side where it takes one size",
        ) from error
    names = tuple(class_names) or tuple(f"class {i}" for i in range(classes))
    if len(names) != classes:
        raise SegalError(
            "class_names: not as many as predict has outputs",
            expected=f"{classes} names",
            got=f"{len(names)}: {', '.join(names)}"[:200],
            remedy="give one per output, in their order, or none",
        )
    model = wrapper(network, replace(spec, class_names=names)).eval()
    model.notes += network.notes
    return GivenNetwork(model, {"predict": digest, "name": name, "stride": stride})


def _spec(
    config: SelectConfig, wrapper: type[Model], features: int | None, stride: int
) -> ModelSpec:
    """How the function is fed, of classes that are not known yet.

    Raises:
        SegalError: For what does not go with a function, or with the task.
    """
    model = config.model
    said = {key for key, value in model.model_dump().items() if value is not None}
    said |= {"stride"} if stride != 1 else set()
    fed_by = set(wrapper.fed_by) if features is None else set()
    if said - fed_by:
        key = min(said - fed_by)
        of_model = ", ".join(sorted(fed_by - {"stride"}))
        raise SegalError(
            f"{'' if key == 'stride' else 'model.'}{key}: not with predict",
            expected=f"of model only {of_model}" if of_model else "features as they are",
            got=", ".join(sorted(said)),
            remedy="leave it out: the function is the network"
            if features is None
            else "leave it out: the function is given the features",
        )
    if stride < 1:
        raise SegalError(
            "stride: not valid",
            expected="a whole number of at least 1",
            got=str(stride),
            remedy="give the number that the sides of images must be multiples of",
        )
    mean = model.mean or (0.0,) * (1 if features else len(model.std or (0.0, 0.0, 0.0)))
    std = model.std or (1.0,) * len(mean)
    side = model.input_side
    return ModelSpec(
        *("predict", "", ("?", "?"), mean, std, stride, model.input_scale or 1.0),
        task=config.task,
        framing=Framing(side, side) if side else None,
        input_channels=features,
    )
