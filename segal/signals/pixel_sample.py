"""Pixels of a set of images, all of them or a sample, kept to run the last layers on them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import psutil
import torch
from torch import Tensor

from segal.data.image_sets import ImageSet, SetName
from segal.data.pool import one_of
from segal.errors import SegalError
from segal.functional.labels import class_indices, has_class
from segal.functional.updates import pixel_windows
from segal.models.wrapped import Tail
from segal.signals.base import Visit, Workbench
from segal.signals.pixels import (
    WORKING_BYTES,
    PixelMap,
    Pixels,
    PixelWindows,
    constants,
    in_float64,
    interpolations,
    tail_radius,
    work_bytes,
)


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
        The pixels in parts. Those of a sample keep a window each, in parts that are small enough to
        be worked on at a time; every pixel of a set, and those of layers that want whole images,
        are kept with the maps of their images, one to a part. Inputs are kept as the network made
        them, in single precision at least; the rest is in double precision, as the tail must be.

    Raises:
        SegalError: If the set has no pixel, or memory is too small.
    """

    def compute() -> tuple[Pixels, ...]:
        tail = in_float64(bench.model.tail(layers))
        gather = _every_pixel if size.exact else _sampled
        kept = gather(bench, of, tail, size)
        if not kept:
            unit = bench.unit
            raise SegalError(
                f"the set of images {of!r}: not one {one_of(unit)} to measure on",
                expected=f"{unit} that are not bought" if of == "pool" else f"{unit} with a class",
                got="none" if of == "pool" else f"void {unit} only",
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
    window: int | None = 4,
    itemsize: int = 4,
) -> int:
    """About the memory that `keep_pixels` takes at most, for images of one size.

    Args:
        size: How many pixels are kept.
        inputs: (U, h, w), the tail's input for one image.
        pixels: Of one image.
        images: Of the set.
        classes: Of the network.
        window: Cells that a pixel's logits depend on: 4 where the tail looks at one cell at a time;
            None where whole maps are kept.
        itemsize: Of a number of the input.
    """
    channels, height, width = inputs
    count = size.pixels or (size.per_class or 0) * classes
    kept = images * pixels if size.exact else min(count, images * pixels)
    if size.exact or window is None:
        maps = min(images, kept) * channels * height * width * itemsize
        return maps + kept * (classes * 8 + 16)
    # Twice: windows are gathered image by image, and then laid together.
    return kept * (2 * (channels * itemsize + 8) * window + classes * 8 + 16)


def _check_memory(
    bench: Workbench, of: SetName, size: SampleSize, inputs: Tensor, pixels: int, window: int | None
) -> None:
    """For all images of a set, by the (U, h, w) input and the number of pixels of one."""
    images = bench.images(of)
    needed = planned_bytes(
        size,
        inputs=inputs.shape,
        pixels=pixels,
        # In a trial, those that the work itself would go through.
        images=images.tried_for or len(images.indices()),
        classes=bench.model.spec.element_classes,
        window=window,
        itemsize=inputs.element_size(),
    )
    free, fewer = free_bytes(inputs.device), _FEWER_PIXELS.get(of, "hessian_pixels")
    if needed > free:
        raise SegalError(
            f"too little memory to keep {bench.unit} of the set of images {of!r}",
            expected=f"{needed / 2**20:.0f} MiB",
            got=f"{free / 2**20:.0f} MiB that are free",
            remedy=f"give fewer {bench.unit}, such as strategy.{fewer}=1000, or fewer images",
        )


def _every_pixel(bench: Workbench, of: SetName, tail: Tail, size: SampleSize) -> tuple[Pixels, ...]:
    kept, cells = list[Pixels](), list[tuple[Tensor, Tensor, Tensor]]()
    known = bench.images(of).dataset is not None
    for visit in bench.visit(of, (tail.name,)):
        for i, inputs in enumerate(_inputs(visit, tail)):
            index = visit.mask[i].flatten().nonzero()[:, 0]
            if not len(index):
                continue
            if not kept and not cells:
                _check_memory(bench, of, size, inputs, visit.mask[i].numel(), None)
            labels = None if visit.labels is None else visit.labels[i].flatten()[index]
            if visit.mask[i].numel() == inputs[0].numel() == 1:  # which is its own window
                classes = torch.zeros_like(index) if labels is None else labels
                cells.append((inputs[None].clone(), inputs.new_ones(1, 1, 1).double(), classes))
                continue
            kept.append(_map(visit, inputs, index, labels, tail))
    if cells:
        local = tail_radius(tail, cells[0][0].shape[1]) == 0
        kept.extend(_parts(cells, tail, known=known, local=local))
    return tuple(kept)


def _inputs(visit: Visit, tail: Tail) -> Tensor:
    inputs = visit.evidence.tail_input[tail.name]
    return inputs.to(torch.promote_types(inputs.dtype, torch.float32))


def _map(
    visit: Visit, inputs: Tensor, index: Tensor, labels: Tensor | None, tail: Tail
) -> PixelMap:
    size = (visit.mask.shape[1], visit.mask.shape[2])
    # The evidence of the batch is gone after this; a view of its map would keep it all.
    inputs, none = inputs[None].clone(), inputs.new_empty(0)
    return _with_logits(
        PixelMap(inputs, size, visit.evidence.upsampling, index, labels, none), tail
    )


def _with_logits(pixels: _Kept, tail: Tail) -> _Kept:
    with torch.no_grad():
        return replace(pixels, before=pixels.logits(tail, constants(tail)))


def _sampled(bench: Workbench, of: SetName, tail: Tail, size: SampleSize) -> tuple[Pixels, ...]:
    sites = draw_sites(bench.images(of), size, torch.Generator().manual_seed(bench.seed))
    known = bench.images(of).dataset is not None
    drawn: dict[tuple[int, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
    maps, radius = list[Pixels](), None
    for visit in bench.visit(of, (tail.name,)):
        batch, pixels = _inputs(visit, tail), visit.mask[0].numel()
        if not maps and not drawn:
            radius = tail_radius(tail, batch.shape[1])
        for i, name in enumerate(visit.evidence.images):
            if name not in sites:
                continue
            index, labels = (t.to(batch.device) for t in sites[name])
            if radius is None:
                if not maps:
                    _check_memory(bench, of, size, batch[i], pixels, None)
                maps.append(_map(visit, batch[i], index, labels if known else None, tail))
                continue
            windows, weights = _windows(visit, batch[i], index, radius)
            if tail.linear:  # in its input, so that this may be interpolated in place of outputs
                windows = torch.einsum("ncst,nst->nc", windows.double(), weights)[..., None, None]
                weights = torch.ones_like(weights[:, :1, :1])
            if not drawn:
                _check_memory(bench, of, size, batch[i], pixels, weights[0].numel())
            drawn.setdefault(windows.shape[1:], []).append((windows, weights, labels))
    parts = (_parts(same, tail, known=known, local=radius == 0) for same in drawn.values())
    return (*maps, *(part for same in parts for part in same))


def _windows(visit: Visit, inputs: Tensor, index: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """(n, U, s, t) of the (U, h, w) input, and (n, s, t) weights, for pixels of an image."""
    _, height, width = inputs.shape
    rows, columns = interpolations((height, width), visit.evidence.upsampling, inputs.device)
    width = visit.mask.shape[2]
    at_y, by_y = pixel_windows(rows, index // width, radius)
    at_x, by_x = pixel_windows(columns, index % width, radius)
    windows = inputs[:, at_y[:, :, None], at_x[:, None, :]].movedim(0, 1)
    return windows, by_y[:, :, None] * by_x[:, None, :]


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
    waiting, added = list[tuple[Tensor, Tensor]](), 0
    for image in images.indices():
        if images.dataset is None:
            position = torch.from_numpy(images.mask(image)).flatten().nonzero()[:, 0]
            label = torch.zeros_like(position)
        else:
            labels = class_indices(torch.from_numpy(images.label(image)).flatten())
            position = has_class(labels).nonzero()[:, 0]
            label = labels[position]
        drawn = torch.rand(len(position), generator=generator, dtype=torch.float64)
        if size.per_class is None and len(keys) == count > 0:  # of which few can be among these
            low = drawn < keys.max()
            drawn, position, label = drawn[low], position[low], label[low]
        here = torch.stack([torch.full_like(position, image), position, label], 1)
        waiting.append((drawn, here))
        added += len(drawn)
        if added >= max(count, len(keys)):  # seldom, and never on more than a few times as many
            keys, found = _merged(keys, found, waiting, size, count)
            waiting, added = [], 0
    keys, found = _merged(keys, found, waiting, size, count)
    sites = {}
    for image in sorted(set(found[:, 0].tolist())):
        of_image = found[found[:, 0] == image]
        sites[images.pool.paths[image]] = (of_image[:, 1], of_image[:, 2])
    return sites


def _merged(
    keys: Tensor,
    found: Tensor,
    waiting: Sequence[tuple[Tensor, Tensor]],
    size: SampleSize,
    count: int,
) -> tuple[Tensor, Tensor]:
    """Those of the lowest keys among what was kept and what came after it."""
    keys = torch.cat([keys, *(drawn for drawn, _ in waiting)])
    found = torch.cat([found, *(here for _, here in waiting)])
    strata = found[:, 2] if size.per_class is not None else torch.zeros_like(found[:, 2])
    kept = _lowest(keys, strata, count)
    return keys[kept], found[kept]


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
