"""What several jobs take in: digests of files, labelled regions, how the pool is scanned."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from segal.config import RunConfig, SelectConfig
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.files import read_error
from segal.masks import read_selection
from segal.regions import Box
from segal.scan import ScanSettings


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits; of a folder, of the files in it and their names.

    Raises:
        SegalError: If it cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        named = "".join(f"{file.name}\0{file_digest(file)}\n" for file in files)
        return hashlib.sha256(named.encode()).hexdigest()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise read_error(path, error, "a file") from error


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


def scan_settings(config: SelectConfig | RunConfig, device: torch.device) -> ScanSettings:
    """How a configuration says that the pool is scanned."""
    return ScanSettings(
        device=device,
        batch_size=config.machine.batch_size,
        workers=config.machine.workers,
        precision=config.precision,
        embedding_dtype=config.embedding_dtype,
    )


def image_digests(pool: ImagePool) -> list[list[str]]:
    """Path and digest of every image, for fingerprints."""
    return [[path, info.digest] for path, info in zip(pool.paths, pool.infos, strict=True)]


def image_sizes(pool: ImagePool) -> dict[str, tuple[int, int]]:
    """(height, width) by path."""
    return {path: pool.size(i) for i, path in enumerate(pool.paths)}


def read_images(files: Sequence[Path]) -> set[str]:
    """Paths of the images that selections name.

    Raises:
        SegalError: If a file is no selection, or they name no image at all.
    """
    images = {selected.image for file in files for selected in read_selection(file)}
    if not images:
        raise SegalError(
            f"{', '.join(map(str, files))}: no region at all",
            expected="at least one region that is labelled",
            got="none",
            remedy="give the selection that was labelled",
        )
    return images


def read_labelled(files: Sequence[Path], pool: ImagePool) -> dict[int, list[Box]]:
    """Boxes of selections by image index, each once, by row and then by column.

    Raises:
        SegalError: If a file is no selection of these images.
    """
    positions = {path: i for i, path in enumerate(pool.paths)}
    sizes = image_sizes(pool)
    boxes: dict[int, set[Box]] = {}
    for file in files:
        for selected in read_selection(file, sizes):
            boxes.setdefault(positions[selected.image], set()).add(selected.box)
    return {i: sorted(boxes[i], key=lambda b: (b[1], b[0], b)) for i in sorted(boxes)}
