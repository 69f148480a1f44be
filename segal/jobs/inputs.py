"""What several jobs take in: digests of files and images, how the pool is scanned."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.config import RunConfig, SelectConfig
from segal.data.exclusion import Excluded, excluded_pixels
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.models.spec import ModelSpec
from segal.scanning.scan import ScanSettings
from segal.system.machine import readers
from segal.tasks import find_task
from segal.tasks.tiles import Layout


def refuse_out_within(out: Path, inputs: Path, kind: str) -> None:
    """Raises a SegalError if what is written would lie among what is read.

    Args:
        out: The folder to write.
        inputs: The folder that is read.
        kind: What it is, as the message says it.
    """
    if out.resolve().is_relative_to(inputs.resolve()):
        raise SegalError(
            f"out: within the {kind}",
            expected="a folder elsewhere, since the pictures that are written are images too",
            got=str(out),
            remedy="choose another folder with --out",
        )


def check_channels(spec: ModelSpec, *pools: ImagePool) -> None:
    """Raises a SegalError if images have another number of channels than a network takes."""
    errors = []
    for pool in pools:
        fixed = pool.reading.channels
        found = {i.channels for i in pool.infos} - {None} if fixed is None else {fixed}
        if found <= {spec.channels}:
            continue
        counts = " and ".join(map(str, sorted(c for c in found if c is not None)))
        several = f"each with as many numbers as there are channels ({counts})"
        remedy = "give images of as many bands as the network has inputs, or choose such bands, as "
        remedy += "with bands=1,2,3; "
        remedy += "or give a network of as many inputs: a new one has as many as model.mean and "
        remedy += f"model.std have numbers, {several}"
        errors.append(
            SegalError(
                f"{pool.root}: images of other channels than the network's",
                expected=f"{spec.channels} channels, which the network takes",
                got=f"images of {counts} channels "
                f"(bands: {_bands(pool)}; mean and std: {spec.channels} numbers)",
                remedy=remedy,
            )
        )
    raise_all(errors)


def check_reduced(spec: ModelSpec, pool: ImagePool, gap: float) -> None:
    """Raises a SegalError if all images have to be read at their size.

    Args:
        spec: What sees them.
        pool: They.
        gap: As `ModelSpec.reduction` takes it.
    """
    shapes = image_shapes(pool)
    if all(spec.reduction(*shape, gap=gap) == 1 for shape in shapes):
        height, width = max(shapes)
        sees = f"sees images at scale {spec.input_scale:g}"
        if spec.framing is not None:
            sees = f"resizes images to {spec.framing.resized}"
        raise SegalError(
            "reducing_gap: no image can be read at less than its size",
            expected=f"a network that sees images at 1/{2 * gap:g} of their size, or less",
            got=f"{spec.title}, which {sees}, and images of up to {height} x {width} "
            "(height x width)",
            remedy="leave reducing_gap out" + ("; or give reducing_gap=1" if gap > 1 else ""),
        )


def _bands(pool: ImagePool) -> str:
    bands = pool.reading.bands
    return (
        "red, green, blue"
        if bands is None
        else ",".join(map(str, bands))
        if bands != "all"
        else bands
    )


def scan_settings(config: SelectConfig | RunConfig, device: torch.device) -> ScanSettings:
    """How a configuration says that the pool is scanned."""
    return ScanSettings(
        device=device,
        batch_size=config.machine.batch_size,
        workers=readers(config.machine.workers, device),
        precision=config.precision,
        embedding_dtype=config.embedding_dtype,
    )


def image_digests(pool: ImagePool) -> list[list[str]]:
    """Path and digest of every image, for fingerprints."""
    return [[path, info.digest] for path, info in zip(pool.paths, pool.infos, strict=True)]


def named_inputs(
    datasets: Mapping[str, LabelledDataset | None],
    labelled: Mapping[str, Iterable[int]] | None = None,
) -> dict[str, dict[str, str]]:
    """Digests of what is read of data sets, as `segal.runs.run_folder.RunFolder.open` takes them.

    Args:
        datasets: By what they are for, such as `validation`.
        labelled: Of those of which not all labels are read, the images whose labels are.
    """
    found: dict[str, dict[str, str]] = {}
    for name, dataset in datasets.items():
        if dataset is not None:
            infos = zip(dataset.pool.paths, dataset.pool.infos, strict=True)
            found[f"images of {name}"] = {path: info.digest for path, info in infos}
            found[f"labels of {name}"] = dataset.digests((labelled or {}).get(name))
            classes = enumerate(dataset.classes.names)
            found[f"classes of {name}"] = {name: str(number) for number, name in classes}
    return found


def image_sizes(pool: ImagePool) -> dict[str, tuple[int, int]]:
    """(height, width) in elements, by path."""
    return {path: pool.size(i) for i, path in enumerate(pool.paths)}


def image_areas(pool: ImagePool, excluded: Excluded) -> NDArray[np.int64]:
    """Elements of every image that can be annotated."""
    sizes = image_sizes(pool).items()
    areas = [h * w - excluded_pixels(excluded.get(path, ())) for path, (h, w) in sizes]
    return np.array(areas, np.int64)


def by_index(pool: ImagePool, excluded: Excluded) -> dict[int, tuple[Box, ...]]:
    """The same boxes by image index."""
    return {i: excluded[path] for i, path in enumerate(pool.paths) if path in excluded}


def image_shapes(pool: ImagePool, spec: ModelSpec | None = None) -> set[tuple[int, int]]:
    """(height, width) in pixels that there are.

    Args:
        pool: The images.
        spec: Of a network that looks at them; large ones are then told as their tiles.
    """
    shapes = {pool.shape(i) for i in range(len(pool))}
    if spec is None or not find_task(spec.task).in_tiles:
        return shapes
    large = pool.reading.large
    tiled = {shape for shape in shapes if large.holds(*shape)}
    return (shapes - tiled).union(*(Layout.of(shape, large, spec).shapes for shape in tiled))
