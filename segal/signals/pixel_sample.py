"""Pixels of a set of images, kept so that the last layers can be run on them again and again.

What is kept is the tail's input at the cells that a pixel's logits depend on: for a sample of
pixels a small window each, for every pixel of the set the whole maps.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

import psutil
import torch
from torch import Tensor

from segal.data.datasets import IGNORE_INDEX
from segal.errors import SegalError
from segal.evidence import Upsampling
from segal.functional.pooling import interpolation_matrix
from segal.functional.updates import pixel_windows, receptive_radius
from segal.image_sets import ImageSet, SetName
from segal.models.segmentation import Tail
from segal.signals.base import Visit, Workbench

WORKING_BYTES = 64 << 20
"""What a step of work may take beside what is kept: more is slower on a CPU, by its cache."""


class SampleSize(NamedTuple):
    """How many pixels are kept.

    Attributes:
        pixels: In all, drawn without replacement; None for every pixel.
        per_class: Pixels of each class instead, all of a class that has fewer.
    """

    pixels: int | None
    per_class: int | None = None

    @property
    def exact(self) -> bool:
        """Whether every pixel is kept."""
        return self.pixels is None and self.per_class is None

    @property
    def name(self) -> str:
        """As `2000`, `8-per-class` or `all`."""
        if self.per_class is not None:
            return f"{self.per_class}-per-class"
        return "all" if self.pixels is None else str(self.pixels)


EVERY_PIXEL = SampleSize(None)
_FEWER_PIXELS: Mapping[SetName, str] = {"val": "holdout_pixels", "pool": "pool_pixels"}
"""What strategies call the number of pixels of a set; of the others it is `hessian_pixels`."""
_Kept = TypeVar("_Kept", "PixelWindows", "PixelMap")


class Pixels(Protocol):
    """Some pixels that the tail can be run on."""

    @property
    def inputs(self) -> Tensor:
        """(B, U, h, w), the tail's input that they depend on."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """(n,) int64 classes; None if unknown."""
        ...

    @property
    def before(self) -> Tensor:
        """(n, C) logits by the network as it is."""
        ...

    def logits(self, tail: Tail, parameters: Mapping[str, Tensor]) -> Tensor:
        """(n, C) logits of the pixels, with other parameters; for `torch.func.vmap`."""
        ...


@dataclass(frozen=True)
class PixelWindows:
    """Single pixels.

    Attributes:
        inputs: (n, U, s, t), the tail's input at the cells of each one's window.
        weights: (n, s, t) of the tail's outputs there in the pixel's logits.
        labels: As of `Pixels`.
        before: As of `Pixels`.
        local: Whether the tail looks at one cell at a time. All cells are then laid out as one
            map, which products of matrices are faster on.
    """

    inputs: Tensor
    weights: Tensor
    labels: Tensor | None
    before: Tensor
    local: bool = False

    def logits(self, tail: Tail, parameters: Mapping[str, Tensor]) -> Tensor:
        """(n, C)."""
        inputs, weights = _like(self.inputs, parameters), _like(self.weights, parameters)
        if not self.local:
            return torch.einsum("ncst,nst->nc", tail.low(inputs, parameters), weights)
        cells = inputs.movedim(0, -1).flatten(1, 2)[None]
        outputs = tail.low(cells, parameters)[0]
        return torch.einsum("ckn,kn->nc", outputs, weights.movedim(0, -1).flatten(0, 1))


@dataclass(frozen=True)
class PixelMap:
    """Pixels of one image, with the whole of its map.

    Attributes:
        inputs: (1, U, h, w), the tail's input.
        size: (H, W) of the image.
        upsampling: How the tail's outputs are spread over it.
        index: (n,) int64 positions y * W + x.
        labels: As of `Pixels`.
        before: As of `Pixels`.
    """

    inputs: Tensor
    size: tuple[int, int]
    upsampling: Upsampling
    index: Tensor
    labels: Tensor | None
    before: Tensor

    def logits(self, tail: Tail, parameters: Mapping[str, Tensor]) -> Tensor:
        """(n, C)."""
        inputs = _like(self.inputs, parameters)
        logits = tail(inputs, parameters, self.size, self.upsampling)[0]
        return logits.flatten(1).index_select(1, self.index).T


def _like(inputs: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """What is kept in single precision, in the precision of the work."""
    return inputs.to(next(iter(parameters.values())).dtype)


def in_float64(tail: Tail) -> Tail:
    """A copy of a tail in double precision.

    A step changes the logits in their fourth digit, or below. In single precision the differences
    would have but a few digits left, and the sign of the smallest would be left to rounding.
    """
    module = copy.deepcopy(tail.module).double()
    parameters = {name: module.get_parameter(name).detach() for name in tail.parameters}
    return replace(tail, module=module, parameters=parameters)


def constants(tail: Tail) -> dict[str, Tensor]:
    """The tail's parameters as they are, without a graph."""
    return {name: value.detach() for name, value in tail.parameters.items()}


def tail_radius(tail: Tail, channels: int) -> int:
    """How far the tail looks, in cells; see `receptive_radius`.

    Raises:
        SegalError: If its outputs are not at the resolution of its input.
    """
    parameters = constants(tail)
    like = next(iter(parameters.values()))
    try:
        with torch.no_grad():
            return receptive_radius(lambda cells: tail.low(cells, parameters), channels, like)
    except (ValueError, RuntimeError) as error:
        raise SegalError(
            f"layers {tail.name!r}: their output is not at the resolution of their input",
            expected="last layers that keep it, which can be run on parts of an image",
            got=str(error).split("\n")[0][:300],
            remedy="give strategy.layers=last; for a Hessian alone strategy.hessian_pixels=null "
            "serves too, which runs them on whole images",
        ) from error


@lru_cache(maxsize=64)
def _interpolation(cells: int, pixels: int, align_corners: bool) -> Tensor:
    return interpolation_matrix(cells, pixels, align_corners)


def interpolations(inputs: Tensor, upsampling: Upsampling) -> tuple[Tensor, Tensor]:
    """(pixels, cells) float64 matrices along y and x, on the device of a (.., h, w) map."""
    height, width = inputs.shape[-2:]
    corners = upsampling.align_corners
    rows = _interpolation(height, upsampling.size[0], corners)
    columns = _interpolation(width, upsampling.size[1], corners)
    return rows.to(inputs.device), columns.to(inputs.device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; of the machine for a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def keep_pixels(bench: Workbench, of: SetName, layers: str, size: SampleSize) -> tuple[Pixels, ...]:
    """Keeps pixels of a set of images; work is shared among the signals of a pass.

    Which pixels are sampled depends on the seed and on the images alone: not on how they are
    batched or read.

    Args:
        bench: The workbench.
        of: The set.
        layers: Name of the tail.
        size: How many.

    Returns:
        The pixels in parts, each small enough to be worked on at a time where it is a sample; a
        part is a whole image otherwise. Inputs are kept as the network made them, in single
        precision at least; the rest is in double precision, as the tail must be.

    Raises:
        SegalError: If the set has no pixel, or memory is too small.
    """

    def compute() -> tuple[Pixels, ...]:
        kept = _every_pixel(bench, of, layers) if size.exact else _sampled(bench, of, layers, size)
        if not kept:
            raise SegalError(
                f"the set of images {of!r}: not one pixel to measure on",
                expected="pixels that are not bought" if of == "pool" else "pixels with a class",
                got="none" if of == "pool" else "void pixels only",
                remedy="add images to the pool"
                if of == "pool"
                else "check the labels, and the list of ignored classes",
            )
        return kept

    return bench.once(("pixels", of, layers, size), compute)


def planned_bytes(
    size: SampleSize,
    *,
    inputs: Sequence[int],
    pixels: int,
    images: int,
    classes: int,
    window: int = 4,
    itemsize: int = 4,
) -> int:
    """About the memory that `keep_pixels` takes at most, for images of one size.

    Args:
        size: How many pixels are kept.
        inputs: (U, h, w), the tail's input for one image.
        pixels: Of one image.
        images: Of the set.
        classes: Of the network.
        window: Cells that a pixel's logits depend on: 4 where the tail looks at one cell at a time.
        itemsize: Of a number of the input.
    """
    channels, height, width = inputs
    if size.exact:
        of_map = channels * height * width * itemsize
        return images * (of_map + pixels * (classes * 8 + 16))
    count = size.pixels or (size.per_class or 0) * classes
    # Twice: windows are gathered image by image, and then laid together.
    each = 2 * (channels * itemsize + 8) * window + classes * 8 + 16
    return min(count, images * pixels) * each


def _planned_images(images: ImageSet) -> int:
    """Images of a set; in a trial, those that the work itself would go through."""
    return images.tried_for or len(images.indices())


def _check_memory(of: SetName, needed: int, device: torch.device) -> None:
    free, fewer = free_bytes(device), _FEWER_PIXELS.get(of, "hessian_pixels")
    if needed > free:
        raise SegalError(
            f"too little memory to keep pixels of the set of images {of!r}",
            expected=f"{needed / 2**20:.0f} MiB",
            got=f"{free / 2**20:.0f} MiB that are free",
            remedy=f"give fewer pixels, such as strategy.{fewer}=1000, or fewer images",
        )


def _every_pixel(bench: Workbench, of: SetName, layers: str) -> tuple[Pixels, ...]:
    tail, kept = in_float64(bench.model.tail(layers)), list[Pixels]()
    for visit in bench.visit(of, (layers,)):
        for i, inputs in enumerate(_inputs(visit, layers)):
            index = visit.mask[i].flatten().nonzero()[:, 0]
            if not len(index):
                continue
            if not kept:
                needed = planned_bytes(
                    EVERY_PIXEL,
                    inputs=inputs.shape,
                    pixels=visit.mask[i].numel(),
                    images=_planned_images(bench.images(of)),
                    classes=bench.model.spec.num_classes,
                    itemsize=inputs.element_size(),
                )
                _check_memory(of, needed, inputs.device)
            labels = None if visit.labels is None else visit.labels[i].flatten()[index]
            size = (visit.mask.shape[1], visit.mask.shape[2])
            upsampling = visit.evidence.upsampling
            # The evidence of the batch is gone after this; a view of its map would keep it all.
            pixels = PixelMap(
                inputs[None].clone(), size, upsampling, index, labels, inputs.new_empty(0)
            )
            kept.append(_with_logits(pixels, tail))
    return tuple(kept)


def _inputs(visit: Visit, layers: str) -> Tensor:
    inputs = visit.evidence.tail_input[layers]
    return inputs.to(torch.promote_types(inputs.dtype, torch.float32))


def _with_logits(pixels: _Kept, tail: Tail) -> _Kept:
    with torch.no_grad():
        return replace(pixels, before=pixels.logits(tail, constants(tail)))


def _sampled(bench: Workbench, of: SetName, layers: str, size: SampleSize) -> tuple[Pixels, ...]:
    sites = draw_sites(bench.images(of), size, torch.Generator().manual_seed(bench.seed))
    tail, radius = in_float64(bench.model.tail(layers)), -1
    drawn: dict[tuple[int, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
    for visit in bench.visit(of, (layers,)):
        inputs = _inputs(visit, layers)
        rows, columns = interpolations(inputs, visit.evidence.upsampling)
        if radius < 0:
            radius = tail_radius(tail, inputs.shape[1])
        for i, name in enumerate(visit.evidence.images):
            if name not in sites:
                continue
            pixels, labels = (t.to(inputs.device) for t in sites[name])
            y, x = pixels // visit.mask.shape[2], pixels % visit.mask.shape[2]
            at_y, by_y = pixel_windows(rows, y, radius)
            at_x, by_x = pixel_windows(columns, x, radius)
            if not drawn:
                needed = planned_bytes(
                    size,
                    inputs=inputs.shape[1:],
                    pixels=visit.mask[i].numel(),
                    images=_planned_images(bench.images(of)),
                    classes=bench.model.spec.num_classes,
                    window=at_y.shape[1] * at_x.shape[1],
                    itemsize=inputs.element_size(),
                )
                _check_memory(of, needed, inputs.device)
            windows = inputs[i][:, at_y[:, :, None], at_x[:, None, :]].movedim(0, 1)
            weights = by_y[:, :, None] * by_x[:, None, :]
            drawn.setdefault(windows.shape[1:], []).append((windows, weights, labels))
    known = bench.images(of).dataset is not None
    return tuple(
        part
        for same in drawn.values()
        for part in _parts(same, tail, known=known, local=radius == 0)
    )


def draw_sites(
    images: ImageSet, size: SampleSize, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """Draws pixels of a set of images without replacement.

    Every pixel gets a random key, in candidate order; those with the smallest are drawn.

    Args:
        images: The set; its void pixels are left out where labels are known.
        size: How many.
        generator: The only source of randomness.

    Returns:
        By the image's path, (n,) int64 positions y * width + x, rising, and (n,) int64 classes (0
        where labels are unknown).
    """
    count = size.pixels if size.per_class is None else size.per_class
    assert count is not None
    keys = torch.zeros(0, dtype=torch.float64)
    found = torch.zeros(0, 3, dtype=torch.int64)  # image, position, class
    for image in images.indices():
        if images.dataset is None:
            position = torch.from_numpy(images.mask(image)).flatten().nonzero()[:, 0]
            label = torch.zeros_like(position)
        else:
            labels = torch.from_numpy(images.label(image)).flatten().long()
            position = (labels != IGNORE_INDEX).nonzero()[:, 0]
            label = labels[position]
        drawn = torch.rand(len(position), generator=generator, dtype=torch.float64)
        here = torch.stack([torch.full_like(position, image), position, label], 1)
        keys, found = torch.cat([keys, drawn]), torch.cat([found, here])
        strata = found[:, 2] if size.per_class is not None else torch.zeros_like(found[:, 2])
        kept = _lowest(keys, strata, count)
        keys, found = keys[kept], found[kept]
    sites = {}
    for image in sorted(set(found[:, 0].tolist())):
        of_image = found[found[:, 0] == image]
        sites[images.pool.paths[image]] = (of_image[:, 1], of_image[:, 2])
    return sites


def _lowest(keys: Tensor, strata: Tensor, count: int) -> Tensor:
    """Positions, rising, of the `count` lowest keys of each stratum."""
    order = keys.argsort(stable=True)
    order = order[strata[order].argsort(stable=True)]
    sizes = torch.bincount(strata)
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes)[strata[order]]
    return order[rank < count].sort().values


def _parts(
    drawn: list[tuple[Tensor, Tensor, Tensor]], tail: Tail, *, known: bool, local: bool
) -> Iterator[Pixels]:
    """Pixels with windows of one size, in parts of bounded size."""
    windows, weights, labels = (torch.cat(tensors) for tensors in zip(*drawn, strict=True))
    cells = windows[0, 0].numel()
    size = max(1, WORKING_BYTES // work_bytes(constants(tail), windows.shape[1], cells))
    for start in range(0, len(windows), size):
        part = slice(start, start + size)
        classes = labels[part] if known else None
        inputs = windows[part]
        if local:  # the same values, in the order that `PixelWindows.logits` wants them in
            inputs = inputs.movedim(0, -1).contiguous().movedim(-1, 0)
        pixels = PixelWindows(inputs, weights[part], classes, windows.new_empty(0), local)
        yield _with_logits(pixels, tail)


def work_bytes(parameters: Mapping[str, Tensor], channels: int, cells: int) -> int:
    """About what running a tail on some cells takes: its input, and four maps of each layer.

    Args:
        parameters: The tail's.
        channels: Of its input.
        cells: How many.
    """
    made = sum(value.shape[0] for value in parameters.values() if value.ndim > 1)
    return cells * (channels + 4 * made) * next(iter(parameters.values())).element_size()
