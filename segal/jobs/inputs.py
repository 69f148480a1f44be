"""What several jobs take in: digests of files and images, how the pool is scanned."""

import hashlib
from pathlib import Path

import torch

from segal.config import RunConfig, SelectConfig
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.files import read_error
from segal.scan import ScanSettings


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits.

    Raises:
        SegalError: If it cannot be read.
    """
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
